"""What a lake needs, on loopback: PostgreSQL, an S3 server, a Dask scheduler with workers that speak TLS only.

Each is a context manager over a folder that it may fill; benchmarks/cluster.py uses them too.
"""

import atexit
import os
import pwd
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from credits_pipeline.config import PROJECT_ROOT
from credits_pipeline_tests.ui import free_port

PATIENCE_S = 60
_PLACES = [*map(str, Path("/usr/lib/postgresql").glob("*/bin")), "/opt/homebrew/bin", "/usr/local/bin"]


class Postgres:
    """A PostgreSQL server of our own, without a password, on 127.0.0.1; `service` is a libpq service file for it."""

    def __init__(self, folder: Path) -> None:
        self.data, self.service, self.port = folder / "pg", folder / "pg_service.conf", free_port()
        program = shutil.which("pg_ctl", path=os.pathsep.join([*_PLACES, os.environ.get("PATH", "")]))
        assert program, "PostgreSQL's server is missing: apt-get install postgresql"
        self._bin = Path(program).parent
        # The server refuses to run as root.
        self._as = {"user": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
        self.data.mkdir(parents=True)
        if self._as:
            os.chown(self.data, *pwd.getpwnam("postgres")[2:4])
            for parent in [folder, *folder.parents]:
                with suppress(PermissionError):
                    parent.chmod(parent.stat().st_mode | 0o011)
        self._run("initdb", "-D", self.data, "-A", "trust", "-U", "credits", "--no-sync", "-E", "UTF8")
        self.start()
        self.psql("postgres", "create database credits")
        self.service.write_text(f"[credits]\nhost=127.0.0.1\nport={self.port}\nuser=credits\ndbname=credits\n")

    def psql(self, database: str, statement: str) -> None:
        self._run("psql", "-h", "127.0.0.1", "-p", self.port, "-U", "credits", "-d", database, "-c", statement)

    def start(self) -> None:
        options = f"-p {self.port} -k {self.data} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", self.data, "-w", "-o", options, "-l", self.data / "log", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", self.data, "-w", "-m", "immediate", "stop")

    def _run(self, program: str, *arguments: object) -> None:
        done = subprocess.run(
            [self._bin / program, *map(str, arguments)],
            cwd="/",
            capture_output=True,
            text=True,
            **self._as,  # type: ignore[call-overload]
        )
        assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def postgres(folder: Path) -> Iterator[Postgres]:
    server = Postgres(folder)
    try:
        yield server
    finally:
        with suppress(AssertionError):  # a test may have stopped it
            server.stop()


class Bucket:
    """An S3 server (moto's) with the bucket `credits`; while it is `refusing`, it answers 503."""

    def __init__(self) -> None:
        from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        self.refusing = False
        stored = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, object], start_response: Callable[..., object]) -> Iterable[bytes]:
            if self.refusing:
                start_response("503 Service Unavailable", [("Content-Length", "0")])
                return []
            return stored(environ, start_response)

        self.server = make_server("127.0.0.1", 0, answer, threaded=True)
        self._thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self._thread.start()
        url = self.environ["AWS_ENDPOINT_URL"]
        urllib.request.urlopen(urllib.request.Request(f"{url}/credits", method="PUT"), timeout=PATIENCE_S).close()

    def __enter__(self) -> "Bucket":
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self._thread.join()

    @property
    def environ(self) -> dict[str, str]:
        secrets = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "testing")
        return {**secrets, "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.server.port}"}


@cache
def certificates() -> dict[str, str]:
    """What Dask is told of certificates, the same for all of this process: it reads that once."""
    folder = Path(tempfile.mkdtemp(prefix="credits-tls-"))
    atexit.register(shutil.rmtree, folder)
    key, cert = folder / "key.pem", folder / "cert.pem"
    request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=credits"]
    subprocess.run(["openssl", *request, "-keyout", key, "-out", cert], check=True, capture_output=True)
    files = {"CA_FILE": cert}
    for who in ("SCHEDULER", "WORKER", "CLIENT"):
        files |= {f"{who}__CERT": cert, f"{who}__KEY": key}
    return {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(path) for name, path in files.items()}


class Cluster:
    """A scheduler and workers that speak TLS only; `environ` is what a client needs to reach them."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        folder.mkdir(parents=True)
        self.folder, self.address = folder, f"tls://127.0.0.1:{free_port()}"
        self.environ = certificates()
        path = os.pathsep.join(filter(None, [str(PROJECT_ROOT), os.environ.get("PYTHONPATH")]))
        of_worker = {"PYTHONPATH": path, **environ, **self.environ, "CREDITS_CLUSTER": self.address}
        self._environ = {**os.environ, **of_worker}
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler = self._start("scheduler", "--protocol", "tls", "--port", self.address.rsplit(":", 1)[1])

    def add_worker(self, *options: str, **environ: str) -> "subprocess.Popen[bytes]":
        here = ("--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder))
        self.workers.append(self._start("worker", self.address, *here, *options, environ=environ))
        return self.workers[-1]

    def logs(self) -> str:
        return "".join(path.read_text("utf-8", "replace") for path in sorted(self.folder.glob("*.log")))

    def stop(self) -> None:
        for process in [*self.workers, self.scheduler]:
            with suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def _start(self, kind: str, *arguments: str, environ: Mapping[str, str] = {}) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{kind}-{time.monotonic_ns()}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "dask", kind, *arguments, "--host", "127.0.0.1", "--no-dashboard"],
                cwd=self.folder, env={**self._environ, **environ}, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip


@contextmanager
def cluster(folder: Path, environ: Mapping[str, str], workers: int = 2, *options: str) -> Iterator[Cluster]:
    """Workers see `environ` on top of this process's."""
    made = Cluster(folder, environ)
    try:
        for _ in range(workers):
            made.add_worker(*options)
        yield made
    finally:
        made.stop()
