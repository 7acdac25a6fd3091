"""Apache Superset for real: installed, started, its dashboard imported, asked, and looked at (`make test-bi`)."""

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import httpx
import pytest
import tenacity

from credits_pipeline_tests import ui
from credits_pipeline_tests.published_history import History
from tools import pictures, superset

pytestmark = pytest.mark.heavy


@dataclass
class Superset:
    """A running Superset, signed in, with what the dashboard asked for when it was opened in Chromium."""

    url: str
    http: httpx.Client
    asked: dict[str, Any]  # the query of each chart, by the chart's title
    wrong: list[str]

    def ask(self, path: str, **body: Any) -> Any:
        reply = self.http.post(path, json=body) if body else self.http.get(path)
        assert reply.is_success, f"{path}: {reply.status_code} {reply.text[:2000]}"
        return reply.json()

    def named(self, kind: str, name: str) -> dict[str, int]:
        """The identities of all charts or datasets, by their names."""
        found = self.ask(f"/api/v1/{kind}/?q=(page_size:100)")["result"]
        return {row[name]: row["id"] for row in found}

    def rows(self, title: str) -> list[dict[str, Any]]:
        """What a chart would show now."""
        rows: list[dict[str, Any]] = self.ask("/api/v1/chart/data", **self.asked[title])["result"][0]["data"]
        return rows

    def sql(self, statement: str) -> httpx.Response:
        asked = {"database_id": 1, "sql": statement, "client_id": uuid.uuid4().hex[:11]}
        return self.http.post("/api/v1/sqllab/execute/", json=asked)


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> History:
    history = History(tmp_path_factory.mktemp("data"), lock_timeout_s=0)
    history.run(days=60)
    return history


@pytest.fixture(scope="module")
def bi(history: History, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Superset]:
    port = ui.free_port()
    with (
        superset.running(history.path, port) as (_, password),
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as http,
    ):
        for attempt in tenacity.Retrying(stop=tenacity.stop_after_delay(300), wait=tenacity.wait_fixed(1)):
            with attempt:
                assert http.get("/health").text == "OK"
        api = Superset(str(http.base_url).rstrip("/"), http, {}, [])
        login = {"username": "admin", "password": password, "provider": "db"}
        http.headers["Authorization"] = f"Bearer {api.ask('/api/v1/security/login', **login)['access_token']}"
        http.headers["X-CSRFToken"] = api.ask("/api/v1/security/csrf_token/")["result"]
        http.headers["Referer"] = api.url
        picture = tmp_path_factory.mktemp("picture") / "dashboard.png"
        titles = {identity: title for title, identity in api.named("chart", "slice_name").items()}
        queries, api.wrong = pictures.superset(api.url + superset.PAGE, password, picture)
        api.asked = {titles[chart]: query for chart, query in queries.items()}
        yield api


def ask(history: History, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(history.path), read_only=True) as con:
        return con.execute(query).fetchall()


def day_of(milliseconds: float) -> str:
    return str(datetime.fromtimestamp(milliseconds / 1000, UTC).date())


def test_every_chart_of_the_dashboard_is_drawn_in_a_browser(bi):
    assert bi.wrong == []
    charts = [path.stem for path in (superset.DASHBOARD / "charts").iterdir()]
    assert len(bi.asked) == len(charts) == len(bi.named("chart", "slice_name"))


def test_every_mart_is_a_dataset_with_the_comments_and_types_of_its_columns(bi, history):
    datasets = bi.named("dataset", "table_name")
    for table, comment in ask(history, "select table_name, comment from duckdb_tables()"):
        dataset = bi.ask(f"/api/v1/dataset/{datasets[table]}")["result"]
        assert dataset["description"] == comment
        assert {column["column_name"]: column["description"] for column in dataset["columns"]} == dict(
            ask(history, f"select column_name, comment from duckdb_columns() where table_name = '{table}'")
        )
    columns = bi.ask(f"/api/v1/dataset/{datasets['daily_spend']}")["result"]["columns"]
    types = {column["column_name"]: (column["is_dttm"], column["type_generic"]) for column in columns}
    temporal, number, text = 2, 0, 1
    assert types["spend_date"] == (True, temporal)
    assert types["spend_usd"] == types["readings"] == (False, number)
    assert types["account"] == (False, text)


def test_sql_lab_answers_and_can_neither_write_nor_read_other_files(bi, history):
    question = """
        select account, count(*) as days, sum(spend_usd)::varchar as usd from marts.daily_spend
        group by all order by all
    """
    assert [tuple(row.values()) for row in bi.sql(question).json()["data"]] == ask(history, question)
    for statement in (
        "create table marts.mine as select 1 as one",
        "delete from marts.daily_spend",
        "select * from read_csv('/etc/passwd')",
    ):
        assert bi.sql(statement).is_error, statement


def test_charts_show_what_the_marts_say(bi, history):
    rows = bi.rows("Spend per day, by account")
    days = [(day_of(row.pop("spend_date")), row) for row in rows]
    shown = {(day, account): usd for day, row in days for account, usd in row.items() if usd}
    spent = "select spend_date, account, spend_usd from marts.daily_spend where spend_usd <> 0"
    last = ask(history, f"{spent} qualify max(spend_date) over () - spend_date < 90")
    assert shown == {(str(day), account): pytest.approx(float(usd)) for day, account, usd in last}
    [balance] = bi.rows("Balance of all accounts")
    [(expected,)] = ask(history, "select sum(balance_usd) from marts.credits_runway")
    assert balance["Balance of all accounts"] == pytest.approx(float(expected))


def test_after_each_daily_run_the_new_data_is_seen_without_reconnecting(bi, history):
    for _ in range(3):
        history.run()
        assert max(day_of(row["spend_date"]) for row in bi.rows("Spend per day, by account")) == str(history.last_run)
        [published] = bi.sql("select run_id from marts.published").json()["data"]
        assert published == {"run_id": f"run {history.last_run}"}
