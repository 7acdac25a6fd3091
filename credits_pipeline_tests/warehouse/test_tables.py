"""What is stored of readings and bills: exactly, all or nothing, and under one name per account."""

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import duckdb
import pytest

from credits_pipeline import clock
from credits_pipeline.warehouse import WarehouseError
from credits_pipeline_tests.children import python
from credits_pipeline_tests.warehouse.stored import (
    DAY,
    DAYS,
    NOON,
    PRELUDE,
    Row,
    count,
    newest_reading,
    reading,
    replaced,
    stored,
)


@pytest.mark.parametrize(
    ("given", "kept"),  # duckdb 1.5.6 binds the Decimal 1E+3 as 1
    [("123456789.123456789", "123456789.123456789"), ("1E+3", "1000.000000000"), ("-3.5", "-3.500000000")],
)
def test_a_reading_comes_back_as_it_went_in(warehouse, given, kept):
    put = reading(usage=given)
    assert warehouse.append_readings([put]) == 1
    newest = newest_reading(warehouse, "default")
    assert newest == put
    assert f"{newest.total_usage:f}" == kept
    with pytest.raises(duckdb.Error):
        warehouse.append_readings([reading(), reading(usage="NaN")])
    assert count(warehouse) == 1


def test_instants_are_stored_in_utc_whatever_zone_the_machine_is_in(warehouse):
    code = (
        PRELUDE
        + """
from datetime import timezone
at = datetime(2026, 6, 11, 1, 30, tzinfo=timezone(timedelta(hours=9)))
warehouse.append_readings([one()])
with warehouse.reading() as con:
    assert con.execute("select current_setting('TimeZone')").fetchall() == [("UTC",)]
"""
    )
    with python(code, warehouse.path, env={**os.environ, "TZ": "Asia/Tokyo"}) as process:
        assert process.communicate()[1] == ""
    instants = stored(warehouse, "select observed_at from raw.credits_snapshots")
    assert instants == [(datetime(2026, 6, 10, 16, 30),)]


def test_an_account_has_history_once_it_was_seen_with_credits_or_a_bill(warehouse):
    day = NOON.date()
    with warehouse.writing("testing") as con:
        assert not warehouse.has_history("default", con)
        warehouse.append_readings([reading(credits="0", usage="0")], con)
        assert not warehouse.has_history("default", con)  # an honest account before its first top-up
        bill = [Row(day, "m", Decimal(1))]
        warehouse.replace_usage("billed", day, day, bill, fetched_at=NOON, run_id="run", con=con)
        assert warehouse.has_history("billed", con)
        warehouse.append_readings([reading()], con)
        assert warehouse.has_history("default", con)


HOUR = timedelta(hours=1)


def test_a_day_billed_nothing_becomes_a_known_zero_and_each_days_move_is_told(warehouse):
    changes = replaced(warehouse, Row(DAYS[0], "a", Decimal("0.1")), Row(DAYS[0], "b", Decimal("0.000000002")))
    assert changes == {
        DAYS[0]: (None, Decimal("0.100000002")),
        DAYS[1]: (None, Decimal(0)),
        DAYS[2]: (None, Decimal(0)),
    }
    assert stored(warehouse, "select usage_date, credits_usd, run_id from raw.model_usage_days") == [
        (DAYS[0], Decimal("0.100000002"), "run 12"),
        (DAYS[1], Decimal(0), "run 12"),
        (DAYS[2], Decimal(0), "run 12"),
    ]
    changes = replaced(warehouse, Row(DAYS[0], "a", Decimal("1.75")), Row(DAYS[2], "a", Decimal(2)), at=NOON + HOUR)
    assert changes == {
        DAYS[0]: (Decimal("0.100000002"), Decimal("1.75")),
        DAYS[1]: (Decimal(0), Decimal(0)),
        DAYS[2]: (Decimal(0), Decimal(2)),
    }


def test_replacing_touches_no_other_day_and_no_other_account(warehouse):
    replaced(warehouse, *(Row(day, "a", Decimal(1)) for day in DAYS))
    replaced(warehouse, *(Row(day, "a", Decimal(2)) for day in DAYS), account="other")
    with clock.frozen(NOON):
        warehouse.replace_usage("default", DAYS[1], DAYS[1], [], fetched_at=NOON, run_id="run")
    query = "select credits_usd::int from raw.model_usage_days where account = ? order by usage_date"
    with warehouse.reading() as con:
        assert con.execute(query, ["default"]).fetchall() == [(1,), (0,), (1,)]
        assert con.execute(query, ["other"]).fetchall() == [(2,), (2,), (2,)]


def test_of_two_fetches_the_later_one_wins_in_whichever_order_they_arrive(warehouse):
    replaced(warehouse, Row(DAYS[0], "a", Decimal(2)), at=NOON)
    assert replaced(warehouse, Row(DAYS[0], "a", Decimal(1)), at=NOON - timedelta(minutes=5)) == {}
    assert stored(warehouse, "select credits_usd from raw.model_usage") == [(Decimal(2),)]


def test_a_fetch_from_the_future_does_not_shut_out_the_present(warehouse):
    """A clock that ran a year ahead for an hour must not freeze the bill for a year."""
    for ahead, usd, run in ((365, 1, "ahead"), (0, 2, "right")):
        with clock.frozen(NOON + timedelta(days=ahead)):
            row = Row(DAY, "a", Decimal(usd))
            warehouse.replace_usage("default", DAY, DAY, [row], fetched_at=clock.now(), run_id=run)
            assert warehouse.unsettled_days(["default"], DAY, DAY) == {"default": [] if ahead else [DAY]}
    assert stored(warehouse, "select credits_usd, run_id from raw.model_usage_days") == [(Decimal(2), "right")]


@pytest.mark.parametrize(
    "rows",
    [
        [Row(DAY, "a", Decimal(1)), Row(DAY, "b", Decimal("NaN"))],
        [Row(DAY, "a", Decimal(1)), Row(DAY, "b", Decimal(1), requests=2**63)],
    ],
)
def test_rows_that_cannot_be_are_refused_and_nothing_is_written(warehouse, rows):
    replaced(warehouse, Row(DAY, "a", Decimal(7)))
    with pytest.raises(duckdb.Error):
        replaced(warehouse, *rows, at=NOON + timedelta(hours=1))
    assert stored(warehouse, "select usage_date, credits_usd from raw.model_usage") == [(DAY, Decimal(7))]
    assert len(stored(warehouse, "from raw.model_usage_days")) == 3


def test_a_day_is_settled_48_hours_after_its_end(warehouse):
    settled_from = datetime(2026, 6, 11, tzinfo=UTC)  # the end of the 8th is the 9th at 00:00
    with clock.frozen(settled_from + timedelta(days=9)):
        for account, at in (("early", settled_from - timedelta(microseconds=1)), ("late", settled_from)):
            warehouse.replace_usage(account, DAY, DAY, [], fetched_at=at, run_id="run")
        days = warehouse.unsettled_days(["early", "late", "new"], DAY - timedelta(days=1), DAY)
    before = DAY - timedelta(days=1)
    assert days == {"early": [before, DAY], "late": [before], "new": [before, DAY]}


def test_any_exception_undoes_everything(warehouse):
    with pytest.raises(KeyboardInterrupt), warehouse.writing("a build") as con:  # noqa: PT012
        warehouse.append_readings([reading()], con=con)
        con.execute("create table marts.half_done as select 1 as one")
        raise KeyboardInterrupt
    assert count(warehouse) == 0
    assert stored(warehouse, "select table_name from duckdb_tables() where schema_name = 'marts'") == []
    warehouse.append_readings([reading()])


def test_nothing_is_loaded_from_the_network(warehouse):
    with warehouse.reading() as con, pytest.raises(duckdb.Error):
        con.execute("from 'https://127.0.0.1:9/nothing.parquet'")


def test_a_renamed_account_takes_everything_along_and_nothing_counts_twice(warehouse):
    """The new name was in use already, with the same key: the same days were billed under both names."""
    times = [NOON + timedelta(days=n) for n in range(4)]
    for name, at in zip(("acme", "acme", "acme_eu", "acme_eu"), times, strict=True):
        warehouse.append_readings([reading(at, name, usage=str(at.day))])
    replaced(warehouse, Row(DAYS[0], "a", Decimal(1)), Row(DAYS[2], "a", Decimal(2)), account="acme")
    later = NOON + timedelta(hours=5)
    replaced(warehouse, Row(DAYS[0], "a", Decimal(1)), Row(DAYS[2], "b", Decimal(3)), at=later, account="acme_eu")
    replaced(warehouse, Row(DAYS[0], "a", Decimal(9)), account="other")
    for account, at in (("acme", NOON), ("acme_eu", later)):
        for dimension in ("api_key", account):  # of one both know the same days, of the other one each
            member = Row(DAYS[0], "a", Decimal(1), member=f"run {at:%H}")
            replaced(warehouse, member, at=at, account=account, dimension=dimension)
    with warehouse.writing("keys and alerts") as con:
        con.execute(
            """
            insert into raw.api_keys by name
            select account, fetched_at as observed_at, 'hash' as key_hash, '' as name, '' as label,
                false as has_byok_in_limit, false as is_disabled, run_id
            from raw.usage_breakdown_days where dimension = 'api_key' and usage_date = '2026-06-08';
            insert into ops.alerts_sent (alert_key, kind, account, channel, title, body, due_at)
            select key, 'run_out', account, 'log', 'title', 'body', '2026-06-10'
            from (values ('run_out/acme/7', 'acme'), ('run_out/acme_eu/7', 'other')) as alerts (key, account)
            """
        )
    assert warehouse.rename_account("acme", "acme_eu") == 2 + 3 + 1 + 1  # readings, days, who spent, an alert
    assert stored(warehouse, "select account, observed_at from raw.credits_snapshots order by all") == [
        ("acme_eu", at.replace(tzinfo=None)) for at in times
    ]
    bills = "select usage_date, credits_usd::int, {} from raw.{} where account <> 'other' order by all"
    assert stored(warehouse, bills.format("model", "model_usage")) == [(DAYS[0], 1, "a"), (DAYS[2], 3, "b")]
    assert stored(warehouse, bills.format("run_id", "model_usage_days")) == [
        (day, usd, "run 17") for day, usd in zip(DAYS, (1, 0, 3), strict=True)
    ]
    for table, rows in (("usage_breakdown_days", 3), ("usage_breakdown", 1)):
        kept = stored(warehouse, f"select account, dimension, count(*) from raw.{table} group by all order by all")
        assert kept == [("acme_eu", name, rows) for name in ("acme", "acme_eu", "api_key")]
    assert stored(warehouse, "select member from raw.usage_breakdown where dimension = 'api_key'") == [("run 17",)]
    assert stored(warehouse, "select account, run_id from raw.api_keys") == [("acme_eu", "run 17")]
    assert stored(warehouse, "select alert_key, account from ops.alerts_sent order by all") == [
        ("run_out/acme_eu/7", "acme_eu"),
        ("run_out/acme_eu/7", "other"),
    ]
    assert len(stored(warehouse, "from raw.model_usage_days where account = 'other'")) == 3


def test_two_accounts_are_not_made_one(warehouse):
    """Their counters go up and down in turn, or a day that is final was billed differently."""
    for name, hour, usage in (("one", 1, "900"), ("two", 2, "5"), ("one", 3, "901")):
        warehouse.append_readings([reading(NOON + timedelta(hours=hour), name, usage=usage)])
    final = NOON + timedelta(hours=12)
    for name, usd in (("three", 1), ("four", 2)):
        replaced(warehouse, Row(DAY, "a", Decimal(usd)), at=final, account=name)
    before = [stored(warehouse, f"from raw.{table}") for table in ("credits_snapshots", "model_usage_days")]
    for old, new, why in (
        ("one", "two", r"usage falls from 900\.00 to 5\.00 on 2026-06-10"),
        ("three", "four", r"1\.00 and 2\.00 USD were billed on 2026-06-08"),
    ):
        with pytest.raises(WarehouseError, match=f"are not one account: {why}"):
            warehouse.rename_account(old, new)
    for nobody in ("nobody", "no(body"):
        with pytest.raises(WarehouseError, match="There is no account no"):
            warehouse.rename_account(nobody, "two")
    assert [stored(warehouse, f"from raw.{table}") for table in ("credits_snapshots", "model_usage_days")] == before
