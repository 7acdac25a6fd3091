"""The DuckDB of this process that works on lakes: its extensions, the way into a bucket, one shard at a time.

Extensions take most of a second to load, and a catalog half as long to attach: both are kept from one use to the next.
"""

import importlib.util
import os
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from credits_pipeline import files
from credits_pipeline.config import LakeSettings
from credits_pipeline.text import literal
from credits_pipeline.warehouse import connection
from credits_pipeline.warehouse.connection import Connection, WarehouseError

_ONE_AT_A_TIME: Final = threading.Lock()
_engines: "list[_Engine]" = []


class _Engine:
    def __init__(self, settings: LakeSettings, folder: Path) -> None:
        files.make_directory(folder)
        self._spills = tempfile.TemporaryDirectory(dir=folder, prefix=".lake-")
        self.con = connection.connect(Path(self._spills.name) / "lake")
        self.settings, self.attached = settings, ""
        load_extensions(self.con, settings)

    def close(self) -> None:
        with suppress(Exception):  # it may have lost the server
            self.con.close()
        self._spills.cleanup()


@contextmanager
def attached(settings: LakeSettings, how: str, folder: Path, limits: Mapping[str, object]) -> Iterator[Connection]:
    """A connection whose catalog `warehouse` is what the statement `how` attaches, and which spills below `folder`."""
    with _ONE_AT_A_TIME:
        if _engines and _engines[0].settings != settings:
            _engines.pop().close()
        if not _engines:
            _engines.append(_Engine(settings, folder))
        engine = _engines[0]
        try:
            for name, value in limits.items():
                engine.con.execute(f"set {name} = '{value}'")
            if engine.attached != how:
                engine.con.execute("use memory; detach database if exists warehouse")
                engine.con.execute(how)
                engine.attached = how
            engine.con.execute("use warehouse")
            yield engine.con
        except BaseException:
            _engines.clear()
            engine.close()
            raise


def forget() -> None:
    """Let go of what is attached, before it is removed."""
    with _ONE_AT_A_TIME:
        while _engines:
            _engines.pop().close()


def load_extensions(con: Connection, settings: LakeSettings) -> None:
    """What DuckDB needs for the lake, from the installed packages: nothing is downloaded."""
    import duckdb

    for name in ("postgres_scanner", "ducklake", *(("httpfs",) if settings.is_bucket else ())):
        package = importlib.util.find_spec(f"duckdb_extension_{name}")
        file = f"extensions/v{duckdb.__version__}/{name}.duckdb_extension"
        path = Path(package.origin).parent / file if package and package.origin else None
        if not path or not path.exists():
            raise WarehouseError(
                f"CREDITS_LAKE needs DuckDB's extension {name} for DuckDB {duckdb.__version__}, which is not installed:"
                " run `make cluster`"
            )
        con.execute(f"load {literal(str(path))}")
    if settings.is_bucket:
        use_bucket(con)


def use_bucket(con: Connection) -> None:
    """How to reach the bucket, by the variables that AWS's own tools read."""
    given = {
        "key_id": os.environ.get("AWS_ACCESS_KEY_ID"),
        "secret": os.environ.get("AWS_SECRET_ACCESS_KEY"),
        "session_token": os.environ.get("AWS_SESSION_TOKEN"),
        "region": os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"),
    }
    if url := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        scheme, _, host = url.partition("://")
        given |= {"endpoint": host, "url_style": "path", "use_ssl": str(scheme == "https").lower()}
    options = "".join(f", {name} {literal(value)}" for name, value in given.items() if value)
    con.execute(f"create or replace temporary secret lake (type s3{options})")
