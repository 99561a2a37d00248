"""TCP proxy between the service and a store that can be made slow or silent."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_CHUNK: Final = 65536


class SlowLink:
    """Forwards bytes in both directions, at a given rate and with a given delay.

    Attributes:
        delay_s: Delay in each direction, in seconds.
        bytes_per_s: None for no limit; 0 to forward nothing and keep connections open.
    """

    def __init__(self, port: int) -> None:
        self.bytes_per_s: float | None = None
        self.delay_s = 0.0
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = []
        self._ended = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @contextmanager
    def slowed(self, bytes_per_s: float) -> Iterator[None]:
        self.bytes_per_s = bytes_per_s
        try:
            yield
        finally:
            self.bytes_per_s = None

    def close(self) -> None:
        self._ended.set()
        for one in [self._listener, *self._sockets]:
            one.close()

    def _accept(self) -> None:
        while not self._ended.is_set():
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                continue
            self._sockets += [near, far]
            for source, target in ((near, far), (far, near)):
                threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(_CHUNK):
                time.sleep(self.delay_s)
                self._send(target, data)
        except OSError:
            pass
        for one in (source, target):
            one.close()

    def _send(self, target: socket.socket, data: bytes) -> None:
        sent = 0
        while sent < len(data) and not self._ended.is_set():
            speed = self.bytes_per_s
            if speed is None:
                target.sendall(data[sent:])
                return
            time.sleep(0.05)
            step = int(speed * 0.05)
            target.sendall(data[sent : sent + step])
            sent += step
