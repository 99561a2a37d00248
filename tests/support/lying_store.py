"""HTTP proxy in front of an S3 server that can answer in its place, or damage its answers."""

import http.client
import http.server
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from shared.settings import ObjectStoreSettings

_TIMEOUT_S: Final = 10.0
_PAGE: Final = b"<html><head><title>Log in</title></head><body>Please log in.</body></html>"


@dataclass(frozen=True)
class Answer:
    """An answer over HTTP.

    Attributes:
        status: Its code.
        headers: Names and values, without the length.
        body: Its content.
        length: What the header Content-Length says; None for no such header.
        raw: Sent in place of all this, if not empty.
    """

    status: int
    headers: Sequence[tuple[str, str]] = ()
    body: bytes = b""
    length: str | None = None
    raw: bytes = b""

    def without(self, *names: str) -> "Answer":
        """Leave out some headers; the names are in lower case."""
        kept = [(name, value) for name, value in self.headers if name.lower() not in names]
        return replace(self, headers=kept)


# Gives what is sent: of the method, and a function that asks the server.
Lie: TypeAlias = Callable[[str, Callable[[], Answer]], Answer]


def page(status: int, kind: str = "text/html", *more: tuple[str, str]) -> Lie:
    """Answer with a web page; the server is not asked."""
    return lambda *_: Answer(status, [("Content-Type", kind), *more], _PAGE, length=str(len(_PAGE)))


def nothing(status: int) -> Lie:
    """Answer with a status only; the server is not asked."""
    return lambda *_: Answer(status, length="0")


def garbage(_: str, __: Callable[[], Answer]) -> Answer:
    """Answer with bytes that are not HTTP."""
    return Answer(0, raw=b"\x00\x15\x03\x01 not HTTP\r\n\r\n")


def cut(_: str, ask: Callable[[], Answer]) -> Answer:
    """Send half of the body, and close the connection."""
    answer = ask()
    return replace(answer, body=answer.body[: len(answer.body) // 2])


def shortened(_: str, ask: Callable[[], Answer]) -> Answer:
    """Send half of the body as if it were all."""
    answer = ask()
    half = answer.body[: len(answer.body) // 2]
    return replace(answer, body=half, length=str(len(half)) if answer.body else answer.length)


def bare(_: str, ask: Callable[[], Answer]) -> Answer:
    """Leave out the headers that only S3 has."""
    answer = ask()
    gone = ("etag", "last-modified", "content-type")
    kept = answer.without(*gone)
    return replace(
        kept, headers=[header for header in kept.headers if not header[0].startswith("x-amz")]
    )


def header(name: str, value: str) -> Lie:
    """Send another value of a header."""

    def lie(_: str, ask: Callable[[], Answer]) -> Answer:
        answer = ask().without(name.lower())
        if name == "Content-Length":
            return replace(answer, length=value)
        return replace(answer, headers=[*answer.headers, (name, value)])

    return lie


def flipped(position: Callable[[int], int]) -> Lie:
    """Flip a bit of the body.

    Args:
        position: Gives the byte from the size of the body.
    """

    def lie(_: str, ask: Callable[[], Answer]) -> Answer:
        answer = ask()
        body = bytearray(answer.body)
        if body:
            body[position(len(body))] ^= 0x10
        return replace(answer, body=bytes(body))

    return lie


class LyingStore:
    """Forwards requests to an S3 server until it is told to lie.

    Args:
        settings: Of the server.

    Attributes:
        lie: What it answers; None to forward.
        methods: Requests that it lies to; None for all.
        lies: Number of lies so far.
    """

    def __init__(self, settings: ObjectStoreSettings) -> None:
        self._server_address = settings.s3_endpoint
        self.lie: Lie | None = None
        self.methods: frozenset[str] | None = None
        self.lies = 0
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.http.daemon_threads = True

    @property
    def endpoint(self) -> str:
        """``host:port`` of the proxy."""
        return f"127.0.0.1:{self.http.server_port}"

    @contextmanager
    def lying(self, lie: Lie, *methods: str) -> Iterator[None]:
        """Lie for the duration of the block, to these methods or to all."""
        self.lie, self.methods = lie, frozenset(methods) if methods else None
        try:
            yield
        finally:
            self.lie = None

    def answer(self, method: str, ask: Callable[[], Answer]) -> Answer:
        """Give the answer to a request."""
        lie = self.lie
        if lie is None or (self.methods is not None and method not in self.methods):
            return ask()
        self.lies += 1
        return lie(method, ask)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        store, address = self, self._server_address

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def _any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._send(store.answer(self.command, lambda: self._ask(body)))

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _any  # noqa: N815

            def _ask(self, body: bytes) -> Answer:
                server = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
                try:
                    server.putrequest(
                        self.command, self.path, skip_host=True, skip_accept_encoding=True
                    )
                    for name, value in self.headers.items():
                        server.putheader(name, value)
                    server.endheaders(body)
                    answer = server.getresponse()
                    gone = ("content-length", "connection", "transfer-encoding", "date", "server")
                    content = answer.read()
                    length = answer.getheader("Content-Length", str(len(content)))
                    got = Answer(answer.status, answer.getheaders(), content, length)
                    return got.without(*gone)
                finally:
                    server.close()

            def _send(self, answer: Answer) -> None:
                if answer.raw:
                    self.wfile.write(answer.raw)
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in answer.headers:
                    self.send_header(name, value)
                if answer.length is not None:
                    self.send_header("Content-Length", answer.length)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(answer.body)
                if answer.length != str(len(answer.body)):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        return Handler


@contextmanager
def lying_store(settings: ObjectStoreSettings) -> Iterator[LyingStore]:
    """Open a proxy to the server for the duration of the block."""
    store = LyingStore(settings)
    thread = threading.Thread(target=store.http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield store
    finally:
        store.http.shutdown()
        store.http.server_close()
