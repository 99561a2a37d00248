"""A TCP link to a gRPC server that can be cut after a call was carried out, before its answer."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_CHUNK: Final = 65536
# Of an HTTP/2 frame: three bytes of length, type, flags, four bytes of stream id.
_FRAME_HEADER: Final = 9
_HEADERS: Final = 1


class CutLink:
    """Passes bytes on in both directions.

    Args:
        address: ``host:port`` of the server.

    Attributes:
        cuts: How often it was cut.
    """

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self.cuts = 0
        self._server = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._armed = threading.Event()
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut_next_answer(self) -> None:
        """Close the connection in place of the next answer that the server gives on it.

        The connection must be there already: health checks get an answer when it is made.
        """
        self._armed.set()

    def close(self) -> None:
        self._ended.set()
        for one in [self._listener, *self._sockets]:
            _close(one)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._server)
            except OSError:
                continue
            self._sockets += [near, far]
            for pump in (self._pass_requests, self._pass_answers):
                threading.Thread(target=pump, args=(near, far), daemon=True).start()

    def _pass_requests(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            while data := near.recv(_CHUNK):
                far.sendall(data)
        _close(near, far)

    def _pass_answers(self, near: socket.socket, far: socket.socket) -> None:
        with suppress(OSError):
            for kind, frame in _frames(far):
                if kind == _HEADERS and self._armed.is_set():
                    self._armed.clear()
                    self.cuts += 1
                    break
                near.sendall(frame)
        _close(near, far)


@contextmanager
def cut_link(address: str) -> Iterator[CutLink]:
    """A link to the server for the length of the block."""
    link = CutLink(address)
    try:
        yield link
    finally:
        link.close()


def _frames(source: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield each whole HTTP/2 frame with its type."""
    held = b""
    while data := source.recv(_CHUNK):
        held += data
        while len(held) >= _FRAME_HEADER:
            size = _FRAME_HEADER + int.from_bytes(held[:3])
            if len(held) < size:
                break
            yield held[3], held[:size]
            held = held[size:]


def _close(*sockets: socket.socket) -> None:
    for one in sockets:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()
