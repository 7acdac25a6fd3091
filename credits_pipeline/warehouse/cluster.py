"""Where the work on the shards of a lake is done: in this process, one after another, or on a Dask cluster.

A task is a function, its arguments and the number of a shard. Keys are no part of it: each worker has them in its own
configuration.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final, TypeVar

from credits_pipeline import config
from credits_pipeline.config import PROJECT_ROOT, ConfigError, Settings
from credits_pipeline.env_file import export_others
from credits_pipeline.warehouse.connection import WarehouseError
from credits_pipeline.warehouse.shard import Shard

if TYPE_CHECKING:
    from distributed import Client

T = TypeVar("T")

WAIT_FOR_WORKERS_S: Final = 60


def on_each(settings: Settings, generation: int, do: Callable[..., T], *args: Any) -> list[T]:
    """What `do(shard, *args)` returns for each shard, in the order of shards. A lost worker's shard is done again.

    Raises WarehouseError where the cluster cannot do it; what `do` raises, of the first shard that fails.
    """
    assert settings.lake
    numbers = range(settings.lake.shards)
    if not settings.lake.cluster:
        return [do(Shard(settings.lake, generation, number, settings.data_dir), *args) for number in numbers]
    with _client(settings.lake.cluster) as client:
        from distributed import KilledWorker

        what = client.scatter((do, args), broadcast=True)
        tasks = [client.submit(_on_worker, number, generation, running(), what, pure=False) for number in numbers]
        try:
            found: list[T] = client.gather(tasks)
        except KilledWorker as error:
            raise WarehouseError(
                f"CREDITS_CLUSTER: the workers died again and again doing the same shard ({error.task}): most likely it"
                " needs more memory than they have. Give them more, or run `make reshard SHARDS=…` for smaller shards."
            ) from error
        return found


@cache
def running() -> str:
    """Which program this process runs: two that differ must not write one lake."""
    import duckdb

    digest = hashlib.sha256()
    for folder in ("credits_pipeline", "dbt_like_sql"):
        for path in sorted((PROJECT_ROOT / folder).rglob("*")):
            if path.suffix in {".py", ".sql", ".yml", ".md"}:
                digest.update(path.relative_to(PROJECT_ROOT).as_posix().encode() + path.read_bytes())
    return (
        f"credits-pipeline {version('credits-pipeline')} ({digest.hexdigest()[:12]}) with DuckDB {duckdb.__version__}"
    )


@contextmanager
def _client(address: str) -> Iterator["Client"]:
    """A connection to a cluster whose workers all run what we run."""
    try:
        from distributed import Client
    except ImportError:
        raise WarehouseError("CREDITS_CLUSTER needs Dask, which is not installed: run `make cluster`") from None
    try:
        client = Client(address, timeout=WAIT_FOR_WORKERS_S, set_as_default=False)
    except TypeError as error:
        raise WarehouseError(
            f"CREDITS_CLUSTER: {address} needs certificates: set DASK_DISTRIBUTED__COMM__TLS__CA_FILE, …__CLIENT__CERT"
            f" and …__CLIENT__KEY as docs/scale.md says ({error})."
        ) from error
    except (OSError, ValueError) as error:
        raise WarehouseError(f"CREDITS_CLUSTER: no scheduler answers at {address} ({error}): start it.") from error
    with client:
        try:
            client.wait_for_workers(1, timeout=WAIT_FOR_WORKERS_S)
        except TimeoutError:
            raise WarehouseError(f"CREDITS_CLUSTER: {address} has no workers: start some with `dask worker`.") from None
        others = {host: told for host, told in client.run(running, on_error="return").items() if told != running()}
        if others:
            host, told = next(iter(others.items()))
            raise WarehouseError(
                f"CREDITS_CLUSTER: the worker {host} runs {told}, and this is {running()}: install the same release on"
                " every host and start its workers again."
            )
        yield client


def _on_worker(number: int, generation: int, wanted: str, what: tuple[Callable[..., T], tuple[Any, ...]]) -> T:
    from distributed import get_worker

    if running() != wanted:  # it joined after the others were asked
        raise WarehouseError(f"CREDITS_CLUSTER: a worker runs {running()}, and the run {wanted}: update it.")
    export_others(config.dotenv_path())
    settings, worker = config.current().valid(), get_worker()
    if settings.lake is None:
        raise ConfigError("CREDITS_LAKE is not set on this host: give every worker the same .env")
    shard = Shard(settings.lake, generation, number, settings.data_dir)
    shard.limits["threads"] = worker.state.nthreads
    if memory := worker.memory_manager.memory_limit:
        shard.limits["memory_limit"] = f"{memory // 2_000_000}MB"
    do, args = what
    return do(shard, *args)
