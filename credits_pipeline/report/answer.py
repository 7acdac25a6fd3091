"""The answer as text for a terminal: balance, spend, run-out date and its interval, where to look next."""

from pathlib import Path
from typing import Any

from credits_pipeline import clock, config, wording
from credits_pipeline.text import plain
from credits_pipeline.warehouse import fetch_dicts, open_published

QUERY = "select * from marts.credits_runway order by run_out_p50 nulls last, account"


def text(settings: config.Settings) -> str:
    """A few lines per account, the most urgent first."""
    with open_published(settings.published_path) as con:
        accounts = fetch_dicts(con, QUERY)
        simulated = con.execute("select is_simulated from marts.published").fetchall() == [(True,)]
    title = "SIMULATED DATA: no real account, no real money" if simulated else "OpenRouter credits"
    if not accounts:
        return f"\n{title}\n\n  No account has been read yet: `make run` shows why."
    blocks = [title, *map(account_lines, accounts), where_to_look(settings)]
    return "\n" + "\n\n".join(blocks)


def account_lines(account: dict[str, Any]) -> str:
    answer = wording.answer(account, seen_at=clock.now())
    return "\n".join(
        [
            f"  {wording.name(account['account'])}, as of {wording.instant(account['as_of'])}",
            f"    balance {wording.usd(account['balance_usd']):>14}",
            f"    spent   {wording.usd(account['spend_7d_usd']):>14} in 7 days, "
            f"{wording.usd(account['spend_30d_usd'])} in 30 days",
            f"    {answer.headline} {answer.detail}",
            f"    {plain(account['explanation'] or '')}",
        ]
    )


def where_to_look(settings: config.Settings) -> str:
    is_demo = settings.data_dir == config.PROJECT_ROOT / config.DEMO_DATA_DIR
    return "\n".join(
        [
            "Where to look next:",
            f"  the page for whoever pays    {shown(settings.report_path)}",
            f"  the tables, for BI tools     {shown(settings.published_path)}  (DuckDB, read-only)",
            f"  the pipeline in Dagster      make {'demo-ui' if is_demo else 'dev'}",
        ]
    )


def shown(path: Path) -> Path:
    """Relative to the project if it lies inside, so that it can be clicked or copied."""
    return path.relative_to(config.PROJECT_ROOT) if path.is_relative_to(config.PROJECT_ROOT) else path
