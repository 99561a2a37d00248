"""Small files that a server keeps in its folder: secrets and ports."""

import json
import secrets
import socket
import time
from collections.abc import Callable
from pathlib import Path

from shared.files import write_atomically

_RELEASE_WAIT_S = 3.0
# Below the ports that Linux gives to outgoing connections.
_FIRST_PORT, _LAST_PORT = 20_000, 32_000


def kept_secret(path: Path, make: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
    """Reads the secret in ``path``; creates it on the first call."""
    if not path.exists():
        write_atomically(path, make(), 0o600)
    return path.read_text()


class PortBook:
    """Ports that the servers of a folder keep from one start to the next.

    Args:
        path: JSON file; written when the first port is taken.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def take(self, name: str) -> int:
        """Gives the port of ``name``: the previous one, unless another program has it now."""
        book: dict[str, int] = json.loads(self._path.read_text()) if self._path.exists() else {}
        if name in book and is_released(book[name]):
            return book[name]
        book[name] = _free_port(taken=set(book.values()))
        write_atomically(self._path, json.dumps(book, indent=2) + "\n", 0o600)
        return book[name]


def is_released(port: int, within_s: float = _RELEASE_WAIT_S) -> bool:
    """Tells whether a port is free; waits a moment for a previous server to release it."""
    deadline = time.monotonic() + within_s
    while not _is_free(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _free_port(taken: set[int]) -> int:
    while True:
        port = _FIRST_PORT + secrets.randbelow(_LAST_PORT - _FIRST_PORT)
        if port not in taken and _is_free(port):
            return port
