"""A proxy that fails by seed: it answers 500 and 503, drops connections, cuts bodies off, is slow, and counts."""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

FAULTS = ("500", "503", "drop", "lost answer", "cut off", "slow")


class Proxy:
    """A context manager that listens on the loopback address in front of a server.

    Args:
        port: of the server.
        rate: share of requests that go wrong.
        seed: decides which, and how.
        refuse: gets method and path; (status, code) for what is refused, or None.
        at: gets the number of a request before it is passed on, from 1.
    """

    def __init__(
        self,
        port: int,
        *,
        rate: float = 0.0,
        seed: int = 0,
        refuse: Callable[[str, str], tuple[int, str] | None] = lambda method, path: None,
        at: Callable[[int], None] = lambda number: None,
    ) -> None:
        self.upstream, self.rate, self.refuse, self.at = port, rate, refuse, at
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.requests: list[tuple[str, str]] = []
        self.faults: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

            def _pass_on(self) -> None:
                outer.handle(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass_on

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handle(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        with self.lock:
            self.requests.append((request.command, request.path))
            number = len(self.requests)
            fault = self.random.choice(FAULTS) if self.random.random() < self.rate else ""
            share = self.random.random()
            if fault:
                self.faults.append(fault)
        self.at(number)
        request.close_connection = True
        refused = self.refuse(request.command, request.path)
        if refused or fault in ("500", "503"):
            status, code = refused or (int(fault), "InternalError")
            self.answer(request, status, f"<Error><Code>{code}</Code></Error>".encode())
            return
        if fault == "drop":
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream)
        try:
            connection.request(request.command, request.path, body, dict(request.headers))
            response = connection.getresponse()
            data = response.read()
        except OSError:
            return
        finally:
            connection.close()
        if fault == "lost answer":
            return
        request.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "content-length"):
                request.send_header(name, value)
        length = response.getheader("Content-Length") if request.command == "HEAD" else None
        request.send_header("Content-Length", length or str(len(data)))
        request.send_header("Connection", "close")
        request.end_headers()
        if fault == "cut off":
            data = data[: int(share * len(data))]
        for start in range(0, len(data), len(data) // 4 + 1):
            if fault == "slow":
                time.sleep(0.02)
            try:
                request.wfile.write(data[start : start + len(data) // 4 + 1])
            except OSError:
                return

    def answer(self, request: BaseHTTPRequestHandler, status: int, data: bytes) -> None:
        """An answer of the proxy's own."""
        request.send_response_only(status)
        request.send_header("Content-Length", str(len(data)))
        request.send_header("Connection", "close")
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
