"""`make superset`: Apache Superset on the published copy, with a dashboard made through its own API.

    python tools/superset.py [--file data/credits.duckdb] [--port 8088] [--picture FILE.png]

Superset is installed once, at pinned versions with checked hashes, into an environment of its own; it answers on
loopback only, and everything it stores is in a directory that is removed when it stops. It opens the published
copy read-only and reads nothing else.
"""

# ruff: noqa: S603 - only programs installed here are started

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from credits_pipeline import clock

ROOT: Final = Path(__file__).resolve().parent.parent
LOCK: Final = ROOT / "tools" / "requirements-superset.lock"
PREPARING_S: Final = 600
"""For each of Superset's own commands: its 300 migrations take half a minute, several on a busy machine."""

STARTING_S: Final = 300
FOREIGN: Final = ("OPENROUTER_", "CREDITS_", "DAGSTER_", "PYTHONPATH")
"""Our own variables: a BI server must not see them, above all the keys."""

FANS: Final = 6
"""How many accounts get a fan of their own, the nearest run-out first: more would not fit on a screen."""

DAYS_SHOWN: Final = 60
"""Days of past and of future in a fan: two months of each can still be read day by day."""


# -- the server -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running Superset with one user, who may do everything."""

    url: str
    password: str = field(repr=False)
    process: "subprocess.Popen[bytes]" = field(repr=False)
    username: str = "admin"


def environment() -> Path:
    """The Python environment that holds Superset: installed the first time, or when the lock has changed."""
    home = Path(os.environ.get("SUPERSET_VENV", ROOT / ".venv-superset"))
    mark = home / "installed"
    if not mark.exists() or mark.read_bytes() != LOCK.read_bytes():
        print("Installing Apache Superset, checking hashes (once; some minutes) …", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--require-hashes", "-r", str(LOCK)], check=True)
        shutil.copy(LOCK, mark)
    return home / "bin"


@contextmanager
def running(port: int = 0) -> Iterator[Server]:
    """Superset on loopback, its data in a temporary directory; stopped at the end, with all its processes."""
    programs = environment()
    home = Path(tempfile.mkdtemp(prefix="superset-"))
    password = secrets.token_urlsafe(12)
    port = port or free_port()
    (home / "superset_config.py").write_text(configuration(home), encoding="utf-8")
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)},
        "SUPERSET_HOME": str(home),
        "SUPERSET_CONFIG_PATH": str(home / "superset_config.py"),
        "FLASK_APP": "superset.app:create_app()",
        "PYTHONWARNINGS": "ignore",
    }
    log = (home / "log").open("wb")
    process = None
    try:
        print("Preparing Superset …", flush=True)
        admin = [
            "--username",
            "admin",
            "--firstname",
            "A",
            "--lastname",
            "Dmin",
            "--email",
            "admin@localhost",
        ]
        for command in (
            ["db", "upgrade"],
            ["fab", "create-admin", *admin, "--password", password],
            ["init"],
        ):
            done = subprocess.run(
                [str(programs / "superset"), *command],
                env=settings, stdout=log, stderr=log, timeout=PREPARING_S, check=False,
            )  # fmt: skip
            if done.returncode:
                raise RuntimeError(f"superset {command[0]} failed:\n{tail(home)}")
        process = subprocess.Popen(
            [
                str(programs / "gunicorn"), "--workers", "1", "--worker-class", "gthread", "--threads", "8",
                "--timeout", "300", "--no-control-socket", "--bind", f"127.0.0.1:{port}", "superset.app:create_app()",
            ],
            env=settings, stdout=log, stderr=log,
        )  # fmt: skip
        server = Server(f"http://127.0.0.1:{port}", password, process)
        wait_until_it_answers(server, home)
        yield server
    finally:
        if process is not None:
            process.terminate()
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        log.close()
        shutil.rmtree(home, ignore_errors=True)


def configuration(home: Path) -> str:
    """Superset's settings; the secret is for this start alone."""
    return "\n".join(
        [
            f"SECRET_KEY = {secrets.token_urlsafe(42)!r}",
            f"SQLALCHEMY_DATABASE_URI = {f'sqlite:///{home}/superset.db?check_same_thread=false'!r}",
            "TALISMAN_ENABLED = False  # its https rules make no sense on loopback",
            "RATELIMIT_ENABLED = False",
            "APP_NAME = 'LLM credits'",
            "WELCOME_MESSAGE = ''",
            "",
        ]
    )


def wait_until_it_answers(server: Server, home: Path) -> None:
    deadline = clock.monotonic() + STARTING_S
    while clock.monotonic() < deadline and server.process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", timeout=10).text == "OK":
                return
        except httpx.TransportError:
            clock.sleep(0.5)
    raise RuntimeError(f"Superset did not start:\n{tail(home)}")


def tail(home: Path) -> str:
    return "\n".join((home / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-30:])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


# -- its API --------------------------------------------------------------------------------------


class Superset:
    """The calls we make to Superset's REST API, signed in as one user."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120, headers={"Referer": url})
        login = {"username": username, "password": password, "provider": "db", "refresh": False}
        token = self._ask("POST", "/api/v1/security/login", json=login)["access_token"]
        self.http.headers["Authorization"] = f"Bearer {token}"
        self.http.headers["X-CSRFToken"] = self._ask("GET", "/api/v1/security/csrf_token/")["result"]

    def close(self) -> None:
        self.http.close()

    def add_database(self, name: str, file: Path) -> int:
        """A DuckDB file, read-only; SQL Lab may query it, and cannot reach other files through it."""
        return self._create(
            "database",
            database_name=name,
            sqlalchemy_uri=f"duckdb:///{file.resolve()}?access_mode=read_only",
            expose_in_sqllab=True,
            allow_dml=False,
            extra=json.dumps({"engine_params": {"connect_args": {"config": {"enable_external_access": "false"}}}}),
        )

    def tables(self, database: int) -> list[str]:
        found = self._ask("GET", f"/api/v1/database/{database}/tables/", params={"q": "(schema_name:marts)"})
        return sorted(table["value"] for table in found["result"])

    def table_metadata(self, database: int, table: str) -> dict[str, Any]:
        """Columns, types and comments as SQL Lab shows them."""
        where = {"name": table, "schema": "marts"}
        return self._ask("GET", f"/api/v1/database/{database}/table_metadata/", params=where)

    def add_dataset(self, database: int, table: str, sql: str | None = None) -> int:
        """A dataset: a table of the schema marts, or the result of `sql`."""
        query = {"sql": sql} if sql else {}
        return self._create("dataset", database=database, schema="marts", table_name=table, **query)

    def dataset(self, identity: int) -> dict[str, Any]:
        result: dict[str, Any] = self._ask("GET", f"/api/v1/dataset/{identity}")["result"]
        return result

    def describe_dataset(self, identity: int, description: str) -> None:
        self._ask("PUT", f"/api/v1/dataset/{identity}", json={"description": description})

    def query(self, database: int, sql: str) -> list[dict[str, Any]]:
        """The rows that SQL Lab shows; tables are named with their schema."""
        asked = {"database_id": database, "sql": sql, "client_id": uuid.uuid4().hex[:11]}
        rows: list[dict[str, Any]] = self._ask("POST", "/api/v1/sqllab/execute/", json=asked)["data"]
        return rows

    def add_chart(self, title: str, dataset: int, viz: str, params: Mapping[str, Any]) -> int:
        form = {"datasource": f"{dataset}__table", "viz_type": viz, **params}
        return self._create(
            "chart",
            slice_name=title,
            datasource_id=dataset,
            datasource_type="table",
            viz_type=viz,
            params=json.dumps(form),
            query_context=json.dumps(
                {
                    "datasource": {"id": dataset, "type": "table"},
                    "form_data": form,
                    "queries": [query_of(params)],
                    "result_format": "json",
                    "result_type": "full",
                }
            ),
        )

    def chart_data(self, chart: int) -> list[dict[str, Any]]:
        """The rows behind a chart."""
        found = self._ask("GET", f"/api/v1/chart/{chart}/data/")["result"]
        rows: list[dict[str, Any]] = found[0]["data"]
        return rows

    def add_dashboard(self, title: str, slug: str, layout: Mapping[str, Any], charts: Sequence[int]) -> int:
        settings = {"color_scheme": "supersetColors", "refresh_frequency": 0, "cross_filters_enabled": True}
        identity = self._create(
            "dashboard",
            dashboard_title=title,
            slug=slug,
            published=True,
            position_json=json.dumps(layout),
            json_metadata=json.dumps(settings),
        )
        for chart in charts:
            self._ask("PUT", f"/api/v1/chart/{chart}", json={"dashboards": [identity]})
        return identity

    def _create(self, kind: str, **what: Any) -> int:
        return int(self._ask("POST", f"/api/v1/{kind}/", json=what)["id"])

    def _ask(self, method: str, path: str, **how: Any) -> dict[str, Any]:
        reply = self.http.request(method, path, **how)
        if reply.is_error:
            raise SupersetError(f"{method} {path}: {reply.status_code} {reply.text[:2000]}")
        told: dict[str, Any] = reply.json()
        return told


class SupersetError(Exception):
    """Superset refused; the message is Superset's."""


def query_of(params: Mapping[str, Any]) -> dict[str, Any]:
    """The query that Superset's pages build from a chart's settings, for querying without a page."""
    grain = params.get("time_grain_sqla")
    axis = params.get("x_axis")
    columns = [*params.get("groupby", []), *params.get("all_columns", [])]
    if axis:
        how = {"timeGrain": grain, "columnType": "BASE_AXIS", "sqlExpression": axis, "label": axis}
        columns = [{**how, "expressionType": "SQL"}, *columns]
    metrics = params.get("metrics", [params["metric"]] if "metric" in params else [])
    return {
        "columns": columns,
        **({"metrics": metrics} if metrics else {}),
        "filters": [],
        "extras": {"where": " and ".join(f"({f['sqlExpression']})" for f in params.get("adhoc_filters", []))},
        "row_limit": params.get("row_limit", 10000),
    }


# -- the dashboard --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Chart:
    """One chart: `width` in twelfths of the page, `height` in steps of 8 pixels."""

    title: str
    dataset: str
    viz: str
    params: Mapping[str, Any]
    width: int
    height: int = 50


def metric(label: str, sql: str) -> dict[str, Any]:
    return {"expressionType": "SQL", "sqlExpression": sql, "label": label, "hasCustomLabel": True,
            "optionName": f"metric_{uuid.uuid5(uuid.NAMESPACE_OID, label + sql).hex[:11]}"}  # fmt: skip


def where(sql: str) -> list[dict[str, Any]]:
    return [{"expressionType": "SQL", "clause": "WHERE", "sqlExpression": sql, "subject": None}]


FAN = f"""
-- What the balance was, and the fan of what it may become, as far as it is not gone: below zero is gone.
select account, balance_date as day, balance_usd as balance,
    null::decimal(18,9) as p10, null::decimal(18,9) as p50, null::decimal(18,9) as p90
from marts.daily_balance
where balance_date >= (select max(balance_date) from marts.daily_balance) - {DAYS_SHOWN}
union all
(
    select account, forecast_date, null, greatest(balance_p10, 0), greatest(balance_p50, 0), greatest(balance_p90, 0)
    from marts.balance_forecast
    where forecast_date < (select min(forecast_date) from marts.balance_forecast) + {DAYS_SHOWN}
    qualify lag(balance_p90, 1, 1) over (partition by account order by forecast_date) > 0
)
"""

# Superset's charts cannot count days back from the newest one: their filters allow no sub-queries.
RECENT = "select *, max(spend_date) over () - spend_date as days_ago from marts.{table}"

VIRTUAL: Final = {
    "balance_fan": FAN,
    "recent_spend": RECENT.format(table="daily_spend"),
    "recent_spend_by_model": RECENT.format(table="daily_spend_by_model"),
}

USD = "$,.2f"
DAY_AXIS: Final = {"x_axis_time_format": "%b %d", "x_axis_title_margin": 15, "y_axis_format": "$,.0f"}
LEGEND: Final = {
    "show_legend": True,
    "legendType": "scroll",
    "legendOrientation": "top",
    "rich_tooltip": True,
}


def figures() -> list[Chart]:
    """The answers in one line: what is left, what a day costs, when it runs out, and as of when."""

    def figure(title: str, dataset: str, sql: str, **params: Any) -> Chart:
        params = {"metric": metric(title, sql), "header_font_size": 0.4, **params}
        return Chart(title, dataset, "big_number_total", params, 3, 20)

    return [
        figure("Balance of all accounts", "credits_runway", "sum(balance_usd)", y_axis_format=USD),
        figure("Spent in the last 30 days", "credits_runway", "sum(spend_30d_usd)", y_axis_format=USD),
        figure(
            "Most likely first to run out",
            "credits_runway",
            "min(run_out_p50)",
            time_format="%b %d, %Y",
            force_timestamp_formatting=True,
        ),
        figure(
            "As of the reading at (UTC)",
            "published",
            "max(as_of)",
            time_format="%b %d, %Y %H:%M",
            force_timestamp_formatting=True,
        ),
    ]


def runway() -> list[Chart]:
    columns = [
        "account", "status", "balance_usd", "expected_daily_spend_usd", "days_left_p50",
        "run_out_p10", "run_out_p50", "run_out_p90", "probability_7d", "explanation",
    ]  # fmt: skip
    shown = {
        "balance_usd": {"d3NumberFormat": USD},
        "expected_daily_spend_usd": {"d3NumberFormat": USD},
        "probability_7d": {"d3NumberFormat": ".0%"},
    }
    table = {
        "query_mode": "raw",
        "all_columns": columns,
        "column_config": shown,
        "table_timestamp_format": "%Y-%m-%d",
        "row_limit": 100,
        "show_cell_bars": False,
    }
    return [Chart("When do credits run out?", "credits_runway", "table", table, 12, 38)]


def fans(accounts: Sequence[str]) -> list[Chart]:
    """The balance and its fan, one chart per account; quantiles of several accounts cannot be added up."""

    def fan(account: str, width: int) -> Chart:
        name = account.replace("'", "''")
        # Superset draws series whose names end like this as a forecast with its band.
        series = {"": "balance", "__yhat": "p50", "__yhat_lower": "p10", "__yhat_upper": "p90"}
        params = {
            "x_axis": "day",
            "metrics": [metric(f"balance{end}", f"max({column})") for end, column in series.items()],
            "adhoc_filters": where(f"account = '{name}'"),
            "seriesType": "line",
            **DAY_AXIS,
            **LEGEND,
            "row_limit": 10000,
        }
        return Chart(f"Balance of {account}, P10 to P90", "balance_fan", "echarts_timeseries_line", params, width)

    shown = accounts[:FANS]
    width = max(4, 12 // max(1, len(shown)))
    return [fan(account, width) for account in shown]


def spending() -> list[Chart]:
    by_day = {
        "x_axis": "spend_date",
        "metrics": [metric("spend", "sum(spend_usd)")],
        "groupby": ["account"],
        "adhoc_filters": where("days_ago < 90"),
        "stack": "Stack",
        **DAY_AXIS,
        **LEGEND,
        "row_limit": 10000,
    }
    chance = {
        "x_axis": "run_out_date",
        "metrics": [metric("probability", "max(probability)")],
        "groupby": ["account"],
        "adhoc_filters": where("day_ahead <= 90"),
        **DAY_AXIS,
        **LEGEND,
        "y_axis_format": ".0%",
        "y_axis_bounds": [0, 1],
        "truncateYAxis": True,
        "row_limit": 10000,
    }
    by_model = {
        "x_axis": "spend_date",
        "time_grain_sqla": "P1W",
        "metrics": [metric("spend", "sum(spend_usd)")],
        "groupby": ["model"],
        "adhoc_filters": where("days_ago < 180"),
        "stack": "Stack",
        **DAY_AXIS,
        **LEGEND,
        "row_limit": 10000,
    }
    models = {
        "query_mode": "aggregate",
        "groupby": ["model"],
        "metrics": [
            metric("spend, USD", "sum(spend_usd)"),
            metric("requests", "sum(requests)"),
            metric("million tokens", "sum(prompt_tokens + completion_tokens) / 1e6"),
            metric("USD per million", "sum(spend_usd) / nullif(sum(prompt_tokens + completion_tokens) / 1e6, 0)"),
        ],
        "adhoc_filters": where("days_ago < 30"),
        "order_desc": True,
        "row_limit": 50,
        "show_cell_bars": True,
        "column_config": {
            "spend, USD": {"d3NumberFormat": ",.2f"},
            "requests": {"d3NumberFormat": ",d"},
            "million tokens": {"d3NumberFormat": ",.1f"},
            "USD per million": {"d3NumberFormat": ",.3f"},
        },
    }
    return [
        Chart("Spend per day, by account", "recent_spend", "echarts_timeseries_bar", by_day, 8),
        Chart("Chance that credits are gone by then", "runway_curve", "echarts_timeseries_line", chance, 4),
        Chart("Spend per week, by model", "recent_spend_by_model", "echarts_timeseries_bar", by_model, 7),
        Chart("Models of the last 30 days", "recent_spend_by_model", "table", models, 5),
    ]


@dataclass(frozen=True)
class Built:
    """What was created in Superset, by its ids there."""

    database: int
    datasets: Mapping[str, int]
    charts: Mapping[str, int]
    dashboard: int
    path: str


def build(superset: Superset, file: Path) -> Built:
    """Add the published copy, a dataset for every mart and the dashboard."""
    database = superset.add_database("LLM credits", file)
    tables = superset.tables(database)
    datasets = {table: superset.add_dataset(database, table) for table in tables}
    for table, identity in datasets.items():
        superset.describe_dataset(identity, superset.table_metadata(database, table)["comment"] or "")
    for name, sql in VIRTUAL.items():
        datasets[name] = superset.add_dataset(database, name, sql)
    accounts = superset.query(
        database, "select account from marts.credits_runway order by run_out_p50 nulls last, account"
    )
    [published] = superset.query(database, "select is_simulated from marts.published")
    rows = [figures(), runway(), fans([row["account"] for row in accounts]), spending()]
    charts = {
        chart.title: superset.add_chart(chart.title, datasets[chart.dataset], chart.viz, chart.params)
        for row in rows
        for chart in row
    }
    title = "LLM credits: spend and runway" + (" (simulated)" if published["is_simulated"] else "")
    flat = [(chart, charts[chart.title]) for row in rows for chart in row]
    dashboard = superset.add_dashboard(title, "llm-credits", layout(title, flat), list(charts.values()))
    return Built(database, datasets, charts, dashboard, "/superset/dashboard/llm-credits/")


def layout(title: str, charts: Sequence[tuple[Chart, int]]) -> dict[str, Any]:
    """Rows of at most twelve twelfths, in order, in the form that Superset stores."""
    rows: list[list[tuple[Chart, int]]] = [[]]
    for chart, identity in charts:
        if sum(placed.width for placed, _ in rows[-1]) + chart.width > 12:
            rows.append([])
        rows[-1].append((chart, identity))
    parts: dict[str, Any] = {
        "DASHBOARD_VERSION_KEY": "v2",
        "ROOT_ID": {"type": "ROOT", "id": "ROOT_ID", "children": ["GRID_ID"]},
        "HEADER_ID": {"type": "HEADER", "id": "HEADER_ID", "meta": {"text": title}},
        "GRID_ID": {
            "type": "GRID",
            "id": "GRID_ID",
            "children": [f"ROW-{n}" for n in range(len(rows))],
            "parents": ["ROOT_ID"],
        },
    }
    for number, row in enumerate(rows):
        name = f"ROW-{number}"
        parts[name] = {
            "type": "ROW",
            "id": name,
            "children": [f"CHART-{identity}" for _, identity in row],
            "parents": ["ROOT_ID", "GRID_ID"],
            "meta": {"background": "BACKGROUND_TRANSPARENT"},
        }
        for chart, identity in row:
            parts[f"CHART-{identity}"] = {
                "type": "CHART",
                "id": f"CHART-{identity}",
                "children": [],
                "parents": ["ROOT_ID", "GRID_ID", name],
                "meta": {
                    "chartId": identity,
                    "width": chart.width,
                    "height": chart.height,
                    "sliceName": chart.title,
                },
            }
    return parts


# -- the picture ----------------------------------------------------------------------------------


def picture(server: Server, path: str, target: Path) -> list[str]:
    """Open the dashboard in Chromium, wait until every chart is drawn, and save what it shows.

    Returns what the charts say went wrong: nothing, normally.
    """
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium") or shutil.which("google-chrome"), args=["--no-sandbox"]
        )
        page = browser.new_page(viewport={"width": 1500, "height": 2250})
        page.set_default_timeout(120_000)
        page.goto(f"{server.url}/login/")
        page.locator("#username, [name=username]").first.fill(server.username)
        page.locator("#password, [name=password]").first.fill(server.password)
        page.keyboard.press("Enter")
        page.wait_for_url(lambda url: "/login" not in url)
        page.goto(f"{server.url}{path}?standalone=1")
        page.locator(".dashboard-component-chart-holder").first.wait_for()
        page.wait_for_load_state("networkidle")
        page.wait_for_function(
            "() => document.querySelectorAll('.dashboard-component-chart-holder .loading,"
            ' .dashboard-component-chart-holder [data-test="loading-indicator"]\').length === 0'
        )
        page.wait_for_timeout(3000)  # the charts glide into place
        wrong = page.locator(".ant-alert-error, [data-test='error-alert'], .ant-empty").all_inner_texts()
        end = page.evaluate(
            "() => Math.max(...[...document.querySelectorAll('.dashboard-component-chart-holder')]"
            ".map(chart => chart.getBoundingClientRect().bottom))"
        )
        target.parent.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=str(target), clip={"x": 0, "y": 0, "width": 1500, "height": end + 20})
        browser.close()
    return [text for text in wrong if text.strip()]


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--file", type=Path, help="the published copy (default: data's, else the demo's)")
    arguments.add_argument("--port", type=int, default=8088)
    arguments.add_argument("--picture", type=Path, help="save a picture of the dashboard there, and stop")
    given = arguments.parse_args()
    own, demo = ROOT / "data" / "credits.duckdb", ROOT / "data" / "demo" / "credits.duckdb"
    file = given.file or (own if own.exists() else demo)
    if not file.exists():
        sys.exit(f"There is no {file}: run `make run` or `make demo` first.")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # on SIGTERM it cleans up as well
    with running(0 if given.picture else given.port) as server:
        superset = Superset(server.url, server.username, server.password)
        built = build(superset, file)
        superset.close()
        if given.picture:
            wrong = picture(server, built.path, given.picture)
            print(f"{given.picture} written.", *wrong)
            return 1 if wrong else 0
        print(f"Superset shows {file}\n  {server.url}{built.path}\n  user admin, password {server.password}")
        print("Press Ctrl-C to stop it; it forgets everything then.", flush=True)
        try:
            server.process.wait()
        except KeyboardInterrupt:
            print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
