"""The answer as text for a terminal: balance, spend, run-out date and its interval, where to look next."""

from pathlib import Path

from credits_pipeline import clock, config, wording
from credits_pipeline.report.accounts import Row, accounts
from credits_pipeline.warehouse import open_published


def text(settings: config.Settings) -> str:
    """A few lines per account, the most urgent first. Raises WarehouseError where there are no tables yet."""
    with open_published(settings.published_path) as con:
        rows = accounts(con, settings)
        simulated = con.execute("select is_simulated from marts.published").fetchall() == [(True,)]
    title = "SIMULATED DATA: no real account, no real money" if simulated else "OpenRouter credits"
    if not rows:
        return f"\n{title}\n\n  No account has been read yet: `make run` shows why."
    return "\n" + "\n\n".join([title, *(account_lines(row, settings) for row in rows), where_to_look(settings)])


def account_lines(row: Row, settings: config.Settings) -> str:
    if not row["has_key"]:
        return f"  {wording.name(row['account'])}: {wording.no_key(row)}"
    said = wording.answer(row, seen_at=clock.now(), after=settings.stale_after)
    lines = [wording.name(row["account"])]
    if row["status"]:
        lines[0] += f", as of {wording.instant(row['as_of'])}"
        lines.append(f"  balance {wording.usd(row['balance_usd']):>14}")
        lines += [
            f"  spent   {wording.usd(row[f'spend_{days}d_usd']):>14} in {days} days{unknown_days(row, days)}"
            for days in (7, 30)
        ]
    lines.append(f"  {said.headline} {said.detail}")
    if said.explanation:
        lines.append(f"  {said.explanation}")
    return "\n".join(f"  {line}" for line in lines)


def unknown_days(row: Row, days: int) -> str:
    unknown = wording.of_days(row[f"unknown_days_{days}d"], days)
    return f" ({unknown})" if unknown and row[f"spend_{days}d_usd"] is not None else ""


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
