"""TCP proxy for a gRPC server that can cut the connection in place of an answer."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

_CHUNK: Final = 65536
# Header of an HTTP/2 frame: three bytes of length, type, flags, four bytes of stream id.
_FRAME_HEADER: Final = 9
_HEADERS: Final = 1


class CutLink:
    """Forwards bytes in both directions.

    Args:
        address: ``host:port`` of the server.

    Attributes:
        cuts: Number of cut connections.
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
        """Close the connection in place of the next answer of the server.

        The connection must already exist: a new one gets answers to health checks.
        """
        self._armed.set()

    def cut_now(self) -> None:
        """Close the connections that exist."""
        self.cuts += 1
        _close(*self._sockets)

    def close(self) -> None:
        self._ended.set()
        _close(self._listener, *self._sockets)

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._server)
            except OSError:
                continue
            self._sockets += [client, server]
            for forward in (self._forward_requests, self._forward_answers):
                threading.Thread(target=forward, args=(client, server), daemon=True).start()

    def _forward_requests(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(_CHUNK):
                server.sendall(data)
        _close(client, server)

    def _forward_answers(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            for kind, frame in _frames(server):
                if kind == _HEADERS and self._armed.is_set():
                    self._armed.clear()
                    self.cuts += 1
                    break
                client.sendall(frame)
        _close(client, server)


@contextmanager
def cut_link(address: str) -> Iterator[CutLink]:
    """Open a proxy to the server for the duration of the block."""
    link = CutLink(address)
    try:
        yield link
    finally:
        link.close()


def _frames(source: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Yield each whole HTTP/2 frame with its type."""
    buffer = b""
    while data := source.recv(_CHUNK):
        buffer += data
        while len(buffer) >= _FRAME_HEADER:
            size = _FRAME_HEADER + int.from_bytes(buffer[:3])
            if len(buffer) < size:
                break
            yield buffer[3], buffer[:size]
            buffer = buffer[size:]


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
