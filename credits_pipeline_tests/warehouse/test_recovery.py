"""From a damaged warehouse back to every figure: backup, restore, what the API still knows, and the SQL built anew."""

from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from credits_pipeline import config, launch
from credits_pipeline.__main__ import main
from credits_pipeline.warehouse import Warehouse, WarehouseCorrupt
from credits_pipeline_tests.conftest import TODAY
from credits_pipeline_tests.defs.test_daily_run import published, raw_readings, spender
from credits_pipeline_tests.warehouse.stored import JUNK


@pytest.fixture(autouse=True)
def _only_the_last_week(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CREDITS_START_DATE", (TODAY - timedelta(days=7)).isoformat())


def warehouse() -> Warehouse:
    return Warehouse(config.current().warehouse_path)


def test_a_damaged_warehouse_is_named_kept_aside_and_rebuilt_from_backup_and_api(simulate, now, tmp_path, capsys):
    """A backup, damage two days later, and the next run: what was spent in between is known all the same."""
    simulate(spender())
    assert main(["run"]) == 0
    assert main(["backup", str(tmp_path / "backups")]) == 0
    (backup,) = (tmp_path / "backups").iterdir()
    assert f"make restore FROM={backup}" in capsys.readouterr().out
    monday = raw_readings()

    seen = published("from marts.daily_spend")
    now.advance(timedelta(days=2))
    path = config.current().warehouse_path
    path.write_bytes(JUNK)
    capsys.readouterr()
    assert main(["run"]) == 1
    said = capsys.readouterr().err
    assert "is damaged: run `make restore`" in said
    assert "Traceback" not in said
    assert published("from marts.daily_spend") == seen, "readers keep what they had"
    assert path.read_bytes() == JUNK, "nothing was written over it"
    with pytest.raises(WarehouseCorrupt):
        warehouse().read_at()

    assert main(["restore", str(backup)]) == 0
    (kept,) = path.parent.glob("warehouse.duckdb.before-restore-*")
    assert kept.read_bytes() == JUNK
    assert str(kept) in capsys.readouterr().out
    assert raw_readings() == monday
    assert published("select count(*) from marts.credits_readings") == [(1,)]

    assert main(["run"]) == 0
    assert raw_readings()[:-1] == monday
    assert published("select count(*), min(spend_usd), max(spend_usd) from marts.daily_spend where is_complete") == [
        (9, Decimal("2.5"), Decimal("2.5"))
    ]


def test_a_damaged_history_or_yaml_of_dagster_is_named_and_the_next_run_goes_on_without_it(simulate, capsys):
    simulate(spender())
    home = launch.instance.dagster_home(config.current())
    assert main(["run"]) == 0
    before = raw_readings()
    for file, junk, said in (
        (home / "dagster.yaml", b"tellemetry: {}", "dagster.yaml cannot be read"),
        (home / "history" / "runs.db", b"what a failing disk left" * 1000, f"history in {home} is damaged"),
    ):
        whole = file.read_bytes()
        file.write_bytes(junk)
        capsys.readouterr()
        assert main(["run"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
        assert len(line) < 500
        if file.suffix == ".yaml":
            file.write_bytes(whole)
    assert raw_readings() == before
    home.rename(home.with_name("moved away"))
    assert main(["run"]) == 0
    assert raw_readings()[:-1] == before
