"""Apache Superset for real: installed, started, fed through its API, asked, and looked at (`make test-bi`)."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from credits_pipeline_tests.published_history import History
from tools import superset

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    history = History(tmp_path_factory.mktemp("data"), lock_timeout_s=0)
    history.run(days=60)
    return history


@pytest.fixture(scope="module")
def server() -> Iterator[superset.Server]:
    with superset.running() as server:
        yield server


@pytest.fixture(scope="module")
def api(server: superset.Server) -> Iterator[superset.Superset]:
    api = superset.Superset(server.url, server.username, server.password)
    yield api
    api.close()


@pytest.fixture(scope="module")
def built(api: superset.Superset, history: History) -> superset.Built:
    return superset.build(api, history.path)


def ask(history: History, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(history.path), read_only=True) as con:
        return con.execute(query).fetchall()


def day_of(milliseconds: float) -> str:
    return str(datetime.fromtimestamp(milliseconds / 1000, UTC).date())


def test_every_mart_is_a_dataset_with_the_comments_of_its_columns(
    api: superset.Superset, built: superset.Built, history: History
) -> None:
    comments: dict[str, dict[str, str]] = {}
    for table, column, comment in ask(history, "select table_name, column_name, comment from duckdb_columns()"):
        comments.setdefault(table, {})[column] = comment
    for table, (comment,) in {
        table: ask(history, f"select comment from duckdb_tables() where table_name = '{table}'")[0]
        for table in comments
        if table in built.datasets
    }.items():
        dataset = api.dataset(built.datasets[table])
        assert dataset["description"] == comment
        assert {column["column_name"]: column["description"] for column in dataset["columns"]} == comments[table]
    assert {"daily_spend", "credits_runway", "published"} <= set(built.datasets)


def test_days_are_temporal_and_money_is_numeric(api: superset.Superset, built: superset.Built) -> None:
    columns = {column["column_name"]: column for column in api.dataset(built.datasets["daily_spend"])["columns"]}
    assert columns["spend_date"]["is_dttm"]
    assert columns["spend_date"]["type"] == "DATE"
    assert columns["spend_usd"]["type_generic"] == 0  # numeric
    assert columns["readings"]["type"] == "BIGINT"


def test_sql_lab_shows_comments_and_answers(api: superset.Superset, built: superset.Built, history: History) -> None:
    told = api.table_metadata(built.database, "daily_spend")
    assert "Primary key: account, spend_date." in told["comment"]
    assert all(column["comment"] for column in told["columns"])
    question = """
        select account, count(*) as days, sum(spend_usd)::varchar as usd from marts.daily_spend
        group by all order by all
    """
    rows = api.query(built.database, question)
    assert [tuple(row.values()) for row in rows] == ask(history, question)


@pytest.mark.parametrize(
    "statement",
    [
        "create table marts.mine as select 1 as one",
        "delete from marts.daily_spend",
        "select * from read_csv('/etc/passwd')",
    ],
)
def test_sql_lab_can_neither_write_nor_read_other_files(
    api: superset.Superset, built: superset.Built, statement: str
) -> None:
    with pytest.raises(superset.SupersetError):
        api.query(built.database, statement)


def test_charts_show_what_the_marts_say(api: superset.Superset, built: superset.Built, history: History) -> None:
    spend = api.chart_data(built.charts["Spend per day, by account"])
    shown = {(row["account"], day_of(row["spend_date"])): row["spend"] for row in spend}
    assert shown == {
        (account, str(day)): pytest.approx(float(usd))
        for account, day, usd in ask(
            history,
            """
            select account, spend_date, spend_usd from marts.daily_spend
            qualify max(spend_date) over () - spend_date < 90
            """,
        )
    }
    [balance] = api.chart_data(built.charts["Balance of all accounts"])
    [(expected,)] = ask(history, "select sum(balance_usd) from marts.credits_runway")
    assert balance["Balance of all accounts"] == pytest.approx(float(expected))


def test_after_the_next_daily_run_it_sees_the_new_data_without_reconnecting(
    api: superset.Superset, built: superset.Built, history: History, server: superset.Server
) -> None:
    def newest_day() -> str:
        return max(day_of(row["spend_date"]) for row in api.chart_data(built.charts["Spend per day, by account"]))

    assert newest_day() == str(history.last_run)
    for _ in range(3):
        history.run()
        assert newest_day() == str(history.last_run)
        assert api.query(built.database, "select run_id from marts.published") == [
            {"run_id": f"run {history.last_run}"}
        ]
    assert open_files(server, history.path) == []  # between two questions it holds no file, so no old one


def open_files(server: superset.Server, path: Path) -> list[str]:
    """What Superset's processes have open of the published copy, replaced ones included."""
    parents = {process.name: (process / "stat").read_text() for process in Path("/proc").glob("[0-9]*")}
    family = {str(server.process.pid)}
    family |= {pid for pid, text in parents.items() if text.rpartition(")")[2].split()[1] in family}
    links = [str(link.readlink()) for pid in family for link in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith(str(path))]


def test_daily_runs_go_through_while_many_charts_are_asked(
    api: superset.Superset, built: superset.Built, history: History, server: superset.Server
) -> None:
    """All charts of the dashboard at once, again and again, as three people who look at it do."""
    done, wrong, asked = threading.Event(), [], []

    def look() -> None:
        own = superset.Superset(server.url, server.username, server.password)
        while not done.is_set():
            for title, chart in built.charts.items():
                try:
                    assert own.chart_data(chart)
                    asked.append(title)
                except Exception as error:
                    wrong.append(f"{title}: {error}")
        own.close()

    people = [threading.Thread(target=look) for _ in range(3)]
    for person in people:
        person.start()
    for _ in range(5):
        history.run()
    done.set()
    for person in people:
        person.join()
    assert wrong == []
    assert len(asked) > len(built.charts)
    assert api.query(built.database, "select run_id from marts.published") == [{"run_id": f"run {history.last_run}"}]


def test_the_dashboard_opens_in_a_browser_with_every_chart_drawn(
    server: superset.Server, built: superset.Built, tmp_path: Path
) -> None:
    picture = tmp_path / "dashboard.png"
    assert superset.picture(server, built.path, picture) == []
    assert picture.stat().st_size > 50_000
