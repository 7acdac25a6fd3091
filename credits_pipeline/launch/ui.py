"""The Dagster UI and daemon, as one command that ends with Ctrl-C."""

import signal
import socket
import subprocess
import sys
from pathlib import Path

from credits_pipeline import config, files
from credits_pipeline.launch.instance import dagster_home, open_instance


def user_interface(settings: config.Settings, port: int) -> int:
    """Run the UI until it ends; bound to this machine, for the open-source UI has no login. Raises ConfigError."""
    home = dagster_home(settings)
    # A second one on the same history would have its daemon tick as well.
    busy = config.ConfigError(f"a Dagster UI is already running on {home}: use that one, or stop it first")
    with files.only_one(home / "dev.lock", otherwise=busy), socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise config.ConfigError(
                f"port {port} is taken by another program: name a free one, as in make dev PORT={port + 1}"
            )
        return serve(settings, home, port)


def serve(settings: config.Settings, home: Path, port: int) -> int:
    with open_instance(settings):
        pass  # what died with the UI before is ended
    print(f"Dagster UI: http://127.0.0.1:{port}  (press Ctrl-C to stop; the history is kept in {home})", flush=True)
    workspace = str(config.PROJECT_ROOT / "workspace.yaml")
    command = [str(Path(sys.executable).with_name("dg")), "dev", "-w", workspace, "--host", "127.0.0.1"]
    # From the data directory: .env was read already (or, for the demo, must not be), and dg would read it again.
    # Started in the background by a script, this process ignores Ctrl-C; its child must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with subprocess.Popen([*command, "--port", str(port)], cwd=settings.data_dir) as child:  # noqa: S603
        # Ctrl-C reaches the whole group; SIGTERM reaches this process only, so it is passed on.
        signal.signal(signal.SIGTERM, lambda *_: child.send_signal(signal.SIGINT))
        while True:
            try:
                return child.wait()
            except KeyboardInterrupt:
                continue
