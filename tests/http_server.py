"""A server on this machine that answers as it is told: right, wrong, broken off, late, or without end."""

import gzip
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from nbflows.storage import download

Answer = Callable[["_Handler"], None]
# What an endless answer stops at, for a client that would not stop it.
MOST_BYTES = 50_000_000


class Server(ThreadingHTTPServer):
    """Give each path its answers, the last of which is repeated; any other path is not found.

    Attributes:
        answers: by path, "/name", a list of functions of this file.
        asked: the paths that were asked for, in order.
        sent: bytes of bodies sent.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.asked: list[str] = []
        self.sent = 0
        self.closing = threading.Event()

    @property
    def address(self) -> str:
        """Without a slash at its end."""
        return f"http://127.0.0.1:{self.server_port}"

    def stop(self) -> None:
        """From now on the port is closed."""
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        """A client that hangs up is what many tests are about."""


@contextmanager
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A running server, and downloads that ask it directly, twice at most, and do not wait before they try again."""
    import pooch.core

    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(pooch.core, "time", SimpleNamespace(sleep=lambda seconds: None))
    monkeypatch.setattr(download, "RETRIES", 1)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join()


def give_up_after(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a server that stalls; a busy one on a busy machine needs more than a moment."""
    monkeypatch.setattr(download, "TIMEOUT", (seconds, seconds))


def whole(content: bytes) -> Answer:
    """The content as it should be."""
    return cut_off(content, len(content))


def cut_off(content: bytes, after: int) -> Answer:
    """Says how many bytes will come, and hangs up before."""

    def answer(handler: "_Handler") -> None:
        handler.begin({"Content-Length": len(content)})
        handler.send(content[:after])

    return answer


def without_length(content: bytes) -> Answer:
    """Does not say how many bytes will come."""

    def answer(handler: "_Handler") -> None:
        handler.begin({})
        handler.send(content)

    return answer


def in_pieces(content: bytes, size: int, seconds: float = 0) -> Answer:
    """In chunks of HTTP/1.1, with a pause before each."""

    def answer(handler: "_Handler") -> None:
        handler.begin({"Transfer-Encoding": "chunked"})
        for start in range(0, len(content), size):
            handler.server.closing.wait(seconds)
            piece = content[start : start + size]
            handler.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        handler.send(b"0\r\n\r\n")

    return answer


def compressed(content: bytes) -> Answer:
    """As servers send text."""

    def answer(handler: "_Handler") -> None:
        body = gzip.compress(content)
        handler.begin({"Content-Encoding": "gzip", "Content-Length": len(body)})
        handler.send(body)

    return answer


def status(code: int) -> Answer:
    """An error page."""

    def answer(handler: "_Handler") -> None:
        handler.begin({"Content-Length": 5}, code)
        handler.send(b"sorry")

    return answer


def stall(content: bytes = b"", after: int | None = None) -> Answer:
    """Sends nothing more after so many bytes; None for not even a first line."""

    def answer(handler: "_Handler") -> None:
        if after is not None:
            handler.begin({"Content-Length": len(content)})
            handler.send(content[:after])
        handler.server.closing.wait(30)

    return answer


def endless(handler: "_Handler") -> None:
    """Zeros for as long as someone takes them."""
    handler.begin({})
    while handler.server.sent < MOST_BYTES:
        handler.send(bytes(65536))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.close_connection = True
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path, [status(404)])
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def begin(self, headers: dict, code: int = 200) -> None:
        """The first lines of an answer."""
        self.send_response(code)
        for name, value in {**headers, "Connection": "close"}.items():
            self.send_header(name, str(value))
        self.end_headers()

    def send(self, content: bytes) -> None:
        """Bytes of the body."""
        self.wfile.write(content)
        self.wfile.flush()
        self.server.sent += len(content)

    def log_message(self, *args) -> None:
        """Keeps quiet."""
