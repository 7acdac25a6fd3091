"""A real web server on loopback that takes what Apprise posts to `json://` addresses."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Receiver:
    """Takes messages; a path named in `refusing` answers 503, one named in `hanging` never answers."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []
        self.refusing: set[str] = set()
        self.hanging: set[str] = set()
        self._end = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                if self.path in receiver.hanging:
                    self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n")
                    # A byte now and then: a limit on the time between two bytes never ends this.
                    while not receiver._end.wait(0.2):
                        self.wfile.write(b".")
                        self.wfile.flush()
                    return
                refused = self.path in receiver.refusing
                if not refused:
                    receiver.messages.append((self.path, body))
                self.send_response(503 if refused else 200)
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *args: Any) -> None:
                pass  # the process that hung was ended: its connection broke, as it should

        self._server = Server(("127.0.0.1", 0), Handler)

    def __enter__(self) -> "Receiver":
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._server.shutdown()
        self._server.server_close()

    def url(self, path: str = "/") -> str:
        return f"json://127.0.0.1:{self._server.server_port}{path}"

    @property
    def titles(self) -> list[str]:
        return [body["title"] for _, body in self.messages]

    def taken(self, path: str) -> list[dict[str, Any]]:
        return [body for at, body in self.messages if at == path]
