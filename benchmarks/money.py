"""How often the outlook of a month was right, and how often credits lasted that the plan said to buy.

    python benchmarks/money.py FOLDER [FOLDER …]

FOLDER holds tasks as benchmarks/forecast.py takes them: `tasks.parquet` (task_id, dataset, series_id) and
`history.parquet` (task_id, spend_date, spend). The histories of one series are put together, and each stretch of it
without a gap becomes four accounts of a fresh warehouse, billed day by day: as it was, and 7, 14 and 21 days later, so
that months begin elsewhere and weekdays stay. Then the product's own models are built, replaying every night.

The outlook: marts.month_outlook_accuracy, over all whole months. The plan: on every night, what marts.topup_plan would
have had an account buy that has nothing left, for 7 to 90 days, against what was spent; it lasted if that was no more.
Shares are means over the nights of a series, then over the series of a data set, then over all data sets.
"""

import argparse
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from credits_pipeline.sql_project import SqlProject
from credits_pipeline.warehouse import Warehouse

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection as Connection

ROOT = Path(__file__).resolve().parent.parent
# Longer than any series, so that every night is replayed.
REPLAYED_DAYS = {"forecast_replay_days": 3000}

LOAD = """
insert into series
with days as (
    select distinct dataset, series_id, spend_date, spend
    from read_parquet($history) inner join read_parquet($tasks) using (task_id)
),
stretches as (
    select
        *,
        spend_date
        - cast(row_number() over (partition by dataset, series_id order by spend_date) as integer) as stretch,
        -- A counter holds just under 1e9 USD, and the forecast is independent of scale.
        power(10, greatest(0, ceil(log10(sum(spend) over (partition by dataset, series_id) / 9e8)))) as scale
    from days
)
select dataset, series_id, concat_ws('|', dataset, series_id, stretch, shift), spend_date + shift, spend / scale
from stretches cross join (values (0), (7), (14), (21)) as shifts (shift)
"""

PLANS = """
with days as (
    select series, origin_date, cast(day_ahead as integer) as day_ahead,
        {{ spend_median('day_ahead') }} as median,
        {{ spend_log_scale('day_ahead') }} * {{ var('money_width') }} as log_scale
    from {{ ref('int_spend_forecast') }}
    cross join range(1, 91) as horizon (day_ahead)
    where is_dated
),
plans as (
    select series, origin_date, day_ahead,
        {% for p in [50, 80, 90, 95] %}
        max(median * exp(ln({{ p }} / {{ 100.0 - p }}) * log_scale)) over so_far as credits_{{ p }},
        {% endfor %}
    from days
    window so_far as (partition by series, origin_date order by day_ahead)
),
totals as (
    select series, spend_date, sum(spend_usd) over (partition by series order by spend_date) as total
    from {{ ref('int_spend_history') }}
)
select names.dataset, names.series_id, day_ahead,
    {% for p in [50, 80, 90, 95] %}
    avg(if(later.total - totals.total <= credits_{{ p }}, 1, 0)) as lasted_{{ p }},
    {% endfor %}
    count(*) as nights
from plans
inner join totals on plans.series = totals.series and plans.origin_date = totals.spend_date
inner join totals as later on plans.series = later.series and plans.origin_date + day_ahead = later.spend_date
inner join {{ ref('int_series') }} as accounts on plans.series = accounts.series
inner join names on accounts.account = names.account
where day_ahead in (7, 14, 30, 60, 90)
group by all
"""

MONTHS = """
select dataset, series_id, origin_day, sum(coverage_80 * replays) / sum(replays) as covered, sum(replays) as replays
from marts.month_outlook_accuracy inner join names using (account)
group by all
"""


def mean(con: "Connection", table: str, figure: str, where: str = "true", weight: str = "1") -> float:
    """Over the rows of a series, then over series, then over data sets."""
    return float(
        con.execute(
            f"""
            with series as (
                select dataset, series_id, sum({figure} * {weight}) / sum({weight}) as figure
                from {table} where {where} group by all
            ), sets as (select dataset, avg(figure) as figure from series group by all)
            select avg(figure) from sets
            """
        ).fetchall()[0][0]
    )


def measure(folders: list[Path]) -> None:
    with TemporaryDirectory() as scratch, Warehouse(Path(scratch) / "warehouse.duckdb").writing("measuring") as con:
        # As a test of the project, the query is rendered with its macros.
        copy = Path(shutil.copytree(ROOT / "dbt_like_sql", Path(scratch) / "dbt_like_sql"))
        (copy / "tests" / "plans.sql").write_text(PLANS, encoding="utf-8")
        project = SqlProject.load(copy, REPLAYED_DAYS)
        con.execute(
            "create temp table series"
            " (dataset varchar, series_id varchar, account varchar, spend_date date, spend decimal(18, 9))"
        )
        for folder in folders:
            con.execute(LOAD, {name: str(folder / f"{name}.parquet") for name in ("tasks", "history")})
        con.execute(
            "insert into raw.model_usage_days"
            " select account, spend_date, spend, spend_date + interval 1 day, 'bench' from series"
        )
        con.execute("create temp table names as select distinct dataset, series_id, account from series")
        project.build(con)
        con.execute(f"create temp table months as {MONTHS}")
        [plans] = [test for model in project.models.values() for test in model.tests if test.name == "plans"]
        con.execute(f"create temp table plans as {plans.compiled}")
        report(con)


def report(con: "Connection") -> None:
    counts = "select sum(replays), count(distinct (dataset, series_id)) from months"
    print("{} replayed months of {} series; 80 % interval covers".format(*con.execute(counts).fetchall()[0]), end="")
    print(f" {mean(con, 'months', 'covered', weight='replays'):.3f};", end="")
    for day in (5, 10, 15, 20, 25):
        print(f" {day}th {mean(con, 'months', 'covered', f'origin_day = {day}', 'replays'):.3f}", end="")
    print("\n  data sets:", end="")
    for (name,) in con.execute("select distinct dataset from months order by all").fetchall():
        where = f"dataset = '{name}'"
        print(f" {name} {mean(con, 'months', 'covered', where, 'replays'):.2f}", end="")
    for confidence in (50, 80, 90, 95):
        print(f"\nbought for {confidence} %, lasted {mean(con, 'plans', f'lasted_{confidence}'):.3f};", end="")
        for days in (7, 14, 30, 60, 90):
            print(f" {days} days {mean(con, 'plans', f'lasted_{confidence}', f'day_ahead = {days}'):.3f}", end="")
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    measure(parser.parse_args().folders)


if __name__ == "__main__":
    main()
