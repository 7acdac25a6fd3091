"""The answer as text for a terminal: balance, spend, run-out date and its interval, where to look next."""

from pathlib import Path

from credits_pipeline import clock, config
from credits_pipeline.report.accounts import accounts
from credits_pipeline.report.templates import template
from credits_pipeline.warehouse import open_published


def text(settings: config.Settings) -> str:
    """A few lines per account, the most urgent first. Raises WarehouseError where there are no tables yet."""
    with open_published(settings.published_path) as con:
        rows = accounts(con, settings)
        is_simulated = con.execute("select is_simulated from marts.published").fetchall() == [(True,)]
    said = template("answer.txt.j2").render(
        rows=rows,
        is_simulated=is_simulated,
        now=clock.now(),
        stale_after=settings.stale_after,
        page=shown(settings.report_path),
        tables=shown(settings.published_path),
        ui="demo-ui" if settings.data_dir == config.PROJECT_ROOT / config.DEMO_DATA_DIR else "dev",
    )
    return said.rstrip()


def shown(path: Path) -> Path:
    """Relative to the project if it lies inside, so that it can be clicked or copied."""
    return path.relative_to(config.PROJECT_ROOT) if path.is_relative_to(config.PROJECT_ROOT) else path
