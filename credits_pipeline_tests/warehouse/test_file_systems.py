"""Shared folders, network and memory-card file systems: what they cannot do is passed over or named."""

import errno
import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from credits_pipeline import files
from credits_pipeline.errors import CreditsError
from credits_pipeline.warehouse import Warehouse, read_mart
from credits_pipeline_tests.warehouse.stored import NOON, count, mode, names, reading

NOT_KNOWN = [errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let a call of the operating system answer with an error number, where `when` says so of its arguments."""

    def answer(module: Any, call: str, number: int, when: Callable[..., bool] = lambda *_: True) -> None:
        real = getattr(module, call)

        def refusing(*arguments: Any, **options: Any) -> Any:
            if when(*arguments):
                raise OSError(number, os.strerror(number))
            return real(*arguments, **options)

        monkeypatch.setattr(module, call, refusing)

    files._warn_once.cache_clear()
    return answer


def is_directory(descriptor: int) -> bool:
    return os.path.isdir(f"/proc/self/fd/{descriptor}")  # noqa: PTH112


def publish(warehouse: Warehouse, version: str) -> Path:
    target = warehouse.path.with_name("credits.duckdb")
    warehouse.publish(target, run_id="run", published_at=NOON, version=version, is_simulated=True)
    return target


@pytest.mark.parametrize("number", NOT_KNOWN)
def test_without_fsync_and_chmod_everything_goes_on_with_one_warning_each(
    warehouse: Warehouse,
    tmp_path: Path,
    answers: Callable[..., None],
    number: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    answers(os, "fsync", number, is_directory)
    answers(os, "chmod", number)
    with caplog.at_level(logging.WARNING, "credits_pipeline"):
        warehouse.append_readings([reading()])
        for version in ("1", "2"):
            target = publish(warehouse, version)
            files.write(tmp_path / "report.html", version)
        made = warehouse.backup(tmp_path / "backups")
        warehouse.restore(made)
    assert count(warehouse) == 1
    assert read_mart("published", target)["version"].to_list() == ["2"]
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == "2"
    warnings = sorted(record.getMessage().split(" (")[1] for record in caplog.records)
    assert [warning.split(") does not support ")[1] for warning in warnings] == ["chmod", "fsync"]


def test_a_disk_that_fails_is_not_passed_over(warehouse: Warehouse, answers: Callable[..., None]) -> None:
    answers(os, "fsync", errno.EIO)
    with pytest.raises(OSError, match="Input/output error"):
        warehouse.append_readings([reading()])
    assert not warehouse.path.exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_without_locks_nothing_is_written_and_the_file_system_is_named(
    warehouse: Warehouse, answers: Callable[..., None], number: int
) -> None:
    answers(fcntl, "flock", number)
    with pytest.raises(CreditsError) as caught:
        warehouse.append_readings([reading()])
    (said,) = str(caught.value).splitlines()
    assert str(warehouse.path) in said
    assert "keeps no locks" in said
    assert files.file_system(warehouse.path) in said
    assert names(warehouse.path.parent) in ([], ["warehouse.duckdb.lock"])


@pytest.mark.parametrize("number", [errno.EBUSY, errno.ETXTBSY])
def test_where_an_open_file_cannot_be_replaced_the_old_copy_stays_and_who_must_close_it_is_said(
    warehouse: Warehouse, answers: Callable[..., None], number: int
) -> None:
    target = publish(warehouse, "1")
    answers(os, "replace", number, lambda _, path: Path(path) == target)
    with pytest.raises(CreditsError, match=r"credits\.duckdb cannot be replaced .* close the program"):
        publish(warehouse, "2")
    assert read_mart("published", target)["version"].to_list() == ["1"]
    assert names(target.parent) == ["credits.duckdb", "warehouse.duckdb", "warehouse.duckdb.lock"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK])
def test_without_hard_links_a_restored_warehouse_is_kept_aside_as_a_copy(
    warehouse: Warehouse, tmp_path: Path, answers: Callable[..., None], number: int
) -> None:
    warehouse.append_readings([reading()])
    made = warehouse.backup(tmp_path / "backups")
    warehouse.append_readings([reading()])
    answers(os, "link", number)
    kept = warehouse.restore(made)
    assert kept
    assert (count(Warehouse(kept)), count(warehouse)) == (2, 1)
    assert mode(kept) == "600"


def test_a_file_system_is_named_by_its_place_and_kind(tmp_path: Path) -> None:
    assert files.file_system(Path("/proc/self/mounts")).endswith("at /proc (proc)")
    assert files.file_system(tmp_path).startswith("the file system at /")
