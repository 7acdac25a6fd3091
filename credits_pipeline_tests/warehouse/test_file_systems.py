"""File systems that cannot do what most can: what is not needed is passed over, what is needed is named."""

import errno
import fcntl
import os
from collections.abc import Callable
from typing import Any

import pytest

from credits_pipeline import files
from credits_pipeline.errors import CreditsError
from credits_pipeline_tests.warehouse.stored import NOON, names, reading


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a call of the operating system answer with an error number, where `when` says so of its argument."""

    def answer(module: Any, call: str, number: int, when: Callable[[Any], bool] = lambda _: True) -> None:
        real = getattr(module, call)

        def refusing(first: Any, *arguments: Any, **options: Any) -> Any:
            if when(first):
                raise OSError(number, os.strerror(number))
            return real(first, *arguments, **options)

        monkeypatch.setattr(module, call, refusing)

    return answer


def is_directory(descriptor: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112


def test_where_directories_cannot_be_synced_and_files_have_no_modes_everything_goes_on(warehouse, tmp_path, answers):
    answers(os, "fsync", errno.EINVAL, is_directory)
    answers(os, "chmod", errno.EPERM)
    warehouse.append_readings([reading()])
    target = warehouse.path.with_name("credits.duckdb")
    warehouse.publish(target, run_id="run", published_at=NOON, version="1", is_simulated=True)
    files.write(tmp_path / "report.html", "new")
    warehouse.restore(warehouse.backup(tmp_path / "backups"))
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "new"


def test_a_disk_that_fails_is_not_passed_over(warehouse, answers):
    answers(os, "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        warehouse.append_readings([reading()])
    assert not warehouse.path.exists()


def test_without_locks_nothing_is_written(warehouse, answers):
    answers(fcntl, "flock", errno.ENOLCK)
    with pytest.raises(CreditsError, match=r"warehouse\.duckdb\.lock cannot be locked .* on a local disk"):
        warehouse.append_readings([reading()])
    assert names(warehouse.path.parent) in ([], ["warehouse.duckdb.lock"])
