"""The server of the page: on 127.0.0.1 only, without state.

A request contains everything that its answer depends on, so visitors never see each other's pictures. Requests from
another page in the browser, or under another name of this machine, are refused. A fixed list of files is served; no
part of a request is used as a path.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from select import select
from socketserver import TCPServer
from typing import Any

from unrelu.errors import HostError, UnreluError
from unrelu.playground._drawing_answers import answer, parsed, picture, request_limit
from unrelu.playground._picture_generators import PictureGenerator
from unrelu.runtime.host import cores
from unrelu.runtime.words import count

ADDRESS = "127.0.0.1"
_NAMES = (ADDRESS, "localhost")
_FILES = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/painting.js": ("painting.js", "text/javascript"),
    "/showing.js": ("showing.js", "text/javascript"),
}
_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
# Seconds after which a waiting request is refused and a silent connection is closed.
_PATIENCE = 30.0
# The most bytes of a refused request that are read and discarded, so that its sender can read the reason.
_PASSED = 2**28
# Seconds in which searches have to end when the server is stopped.
_ENDING = 10.0


class _RefusedError(Exception):
    """A refused request, with its HTTP status and the reason."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class LocalServer(ThreadingHTTPServer):
    """Answers requests for some generators. At most one search per core runs at a time; the others wait."""

    daemon_threads = True

    def __init__(self, generators: Sequence[PictureGenerator], port: int = 0) -> None:
        self.generators = {generator.name: generator for generator in generators}
        self.limit = request_limit(generators)
        self.stopping = threading.Event()
        self._cores = cores()
        self._free = threading.Semaphore(self._cores)
        self._preparing = {name: threading.Lock() for name in self.generators}
        self._prepared: set[str] = set()
        try:
            super().__init__((ADDRESS, port), _Handler)
        except OSError as error:
            raise HostError(
                f"port {port} of {ADDRESS} cannot be opened: {error.strerror}; pass --port 0 for any that is free"
            ) from error

    @property
    def url(self) -> str:
        """The address of the page."""
        return f"http://{ADDRESS}:{self.server_address[1]}/"

    def server_bind(self) -> None:
        """Bind without looking up the name of 127.0.0.1."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = ADDRESS, self.server_address[1]

    def answer(self, path: str, body: bytes, closed: Callable[[], bool]) -> dict[str, Any]:
        """The answer to a request to ``/invert`` or ``/picture``; ``closed`` tells that nobody waits for it.

        Raises:
            UnreluError: the request is invalid.
            _RefusedError: too many other requests are waiting.
        """
        generator, request = parsed(body, self.generators)
        if path == "/picture":
            return picture(generator, request)
        with self._turn():
            self._prepare(generator)
            return answer(generator, request, lambda: self.stopping.is_set() or closed())

    def prepare(self) -> None:
        """Compile kernels and draw samples for the first searches, one generator after the other."""
        for generator in self.generators.values():
            with self._turn():
                self._prepare(generator)

    def _prepare(self, generator: PictureGenerator) -> None:
        with self._preparing[generator.name]:
            if generator.name not in self._prepared and not self.stopping.is_set():
                generator.prepare(self.stopping.is_set)
                self._prepared.add(generator.name)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._free.acquire(timeout=_PATIENCE):
            raise _RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "too many pictures are waiting; try again")
        try:
            yield
        finally:
            self._free.release()

    def end(self) -> None:
        """Stop searches and wait for them, so that nothing is running when the interpreter ends."""
        self.stopping.set()
        for _ in range(self._cores):
            self._free.acquire(timeout=_ENDING / self._cores)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error, unless it is a closed connection."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: LocalServer
    server_version, sys_version = "unrelu", ""
    timeout = _PATIENCE
    _unread = 0

    def do_GET(self) -> None:
        def content() -> tuple[bytes, str]:
            if self.path == "/generators":
                described = [generator.described() for generator in self.server.generators.values()]
                return json.dumps(described).encode(), "application/json"
            if self.path not in _FILES:
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is no such page")
            name, kind = _FILES[self.path]
            return (files(__package__) / "static" / name).read_bytes(), f"{kind}; charset=utf-8"

        self._respond(content)

    def do_POST(self) -> None:
        def content() -> tuple[bytes, str]:
            if self.path not in ("/invert", "/picture"):
                raise _RefusedError(HTTPStatus.NOT_FOUND, "there is nothing to ask here")
            answer = self.server.answer(self.path, self._body(), self._closed)
            return json.dumps(answer, allow_nan=False).encode(), "application/json"

        stated = self.headers.get("Content-Length", "")
        self._unread = int(stated[:20]) if stated.isascii() and stated.isdigit() else 0
        self._respond(content)
        for _ in range(0, min(self._unread, _PASSED), 2**16):
            self.rfile.read(min(self._unread, 2**16))
            self._unread -= 2**16

    def _body(self) -> bytes:
        """Read the body of a request, if it is JSON and not too large."""
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send JSON, with Content-Type: application/json")
        size, limit = self._unread, self.server.limit
        if not size:
            raise _RefusedError(HTTPStatus.LENGTH_REQUIRED, "the request is empty, or does not say how long it is")
        if size > limit:
            raise _RefusedError(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"a request of {count(size, 'byte')} is too large; the largest picture takes {count(limit, 'byte')}",
            )
        self._unread = 0
        return self.rfile.read(size)

    def _closed(self) -> bool:
        """Whether the other end has closed the connection, as the page does when it sends a newer request."""
        try:
            readable, _, _ = select([self.connection], [], [], 0)
            return bool(readable) and not self.connection.recv(1, socket.MSG_PEEK)
        except OSError:
            return True

    def _respond(self, content: Callable[[], tuple[bytes, str]]) -> None:
        status, kind = HTTPStatus.OK, "application/json"
        try:
            self._check_origin()
            body, kind = content()
        except (_RefusedError, UnreluError) as error:
            status = error.status if isinstance(error, _RefusedError) else HTTPStatus.BAD_REQUEST
            body = json.dumps({"error": str(error)}).encode()
        except OSError:
            raise
        except Exception as error:
            traceback.print_exc()
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            body = json.dumps({"error": f"the playground broke down on this ({type(error).__name__})"}).encode()
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _check_origin(self) -> None:
        """Refuse requests of other pages, and requests under a foreign name that resolves to this machine."""
        host = self.headers.get("Host", "")
        if host.rpartition(":")[0] not in _NAMES and host not in _NAMES:
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"ask for http://{ADDRESS}, not for {host!r:.60}")
        origin = self.headers.get("Origin")
        if origin is not None and origin != f"http://{host}":
            raise _RefusedError(HTTPStatus.FORBIDDEN, f"{origin!r:.60} is another page; open {self.server.url}")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing for a request."""


@contextmanager
def serving(generators: Sequence[PictureGenerator], port: int = 0) -> Iterator[LocalServer]:
    """Run a server, whose :attr:`~LocalServer.url` is the page.

    Args:
        generators: the generators to choose from. The first one is preselected, and prepared before the server runs.
        port: the port of 127.0.0.1; 0 for any free port.

    Raises:
        HostError: the port cannot be opened.
    """
    with LocalServer(generators, port) as server:
        generators[0].prepare(server.stopping.is_set)
        answering = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        preparing = threading.Thread(target=server.prepare, daemon=True)
        answering.start()
        preparing.start()
        try:
            yield server
        finally:
            server.shutdown()
            server.end()
            preparing.join(_ENDING)
