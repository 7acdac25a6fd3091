"""Every fault at every stage, over real processes, files and disks: nothing is lost, and the next run heals it."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from credits_pipeline_tests.chaos import World, strike, table, world
from credits_pipeline_tests.children import Children


@pytest.fixture(scope="module")
def shared() -> Iterator[World]:
    with Children() as children, world(children) as made:
        yield made


@pytest.mark.parametrize(
    "row", [pytest.param(row, id=str(row), marks=[] if row.always else pytest.mark.heavy) for row in table()]
)
def test_a_fault_loses_nothing_shows_nothing_half_done_and_the_next_run_heals_it(shared, row):
    if row.needs_disk and not shared.has_disk:
        pytest.skip("NOT TESTED: a disk of its own to fill or to lock takes root and the right to mount")
    strike(shared, row)


@pytest.mark.heavy
@pytest.mark.parametrize("other", ["run", "backfill", "run in another home of Dagster"])
def test_two_at_once_take_turns(shared, other):
    shared.now += timedelta(hours=1)
    before = shared.readings()
    home = {"DAGSTER_HOME": str(shared.root / "another home")} if " " in other else {}
    both = [shared.start(waits=True), shared.start(other.split()[0], waits=True, environ=home)]
    for ended in [child.wait() for child in both]:
        assert ended.returncode == 0, ended.stderr
    after = shared.readings()
    assert after[: len(before)] == before
    assert len(after) - len(before) == 1 + (other != "backfill")
    shared.bills_are_right()
    assert shared.published() == after[-1][2]
