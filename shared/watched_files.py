"""Files that are read again when they change, such as certificates and keys."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Generic, TypeAlias, TypeVar

from shared.errors import PreconditionFailed

_Value = TypeVar("_Value")
_Stamp: TypeAlias = tuple[tuple[int, int, int], ...]

logger = logging.getLogger(__name__)


class WatchedFiles(Generic[_Value]):
    """A value made from files, which is made again after one of them has changed.

    If the changed files cannot be read, or do not fit together because only one of them has been
    replaced so far, the last value stays in use, and the log says why. May be used by any thread.

    Args:
        paths: The files, by the name of the setting that names each.
        load: Makes the value from the contents of the files, in their order. It raises ValueError
            if they are not valid; the text says what is wrong.

    Raises:
        PreconditionFailed: If the files cannot be used at the start.
    """

    def __init__(
        self, paths: Mapping[str, Path], load: Callable[[Sequence[bytes]], _Value]
    ) -> None:
        self._paths = paths
        self._load = load
        self._lock = Lock()
        self._complaint = ""
        self._seen = self._stamp()
        self._value = self._read()

    def current(self) -> _Value:
        """Return the value of the files as they are now; the same object while nothing changes."""
        with self._lock:
            try:
                self._update()
                self._complaint = ""
            except PreconditionFailed as error:
                if str(error) != self._complaint:
                    logger.warning("%s; what was read before stays in use", error)
                self._complaint = str(error)
            return self._value

    def _update(self) -> None:
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._value = self._read()
        self._seen = stamp
        logger.info("read again after a change: %s", self._names())

    def _stamp(self) -> _Stamp:
        return tuple(_identity(name, path) for name, path in self._paths.items())

    def _read(self) -> _Value:
        contents = [_content(name, path) for name, path in self._paths.items()]
        try:
            return self._load(contents)
        except ValueError as error:
            raise PreconditionFailed(f"{self._names()}: {error}") from None

    def _names(self) -> str:
        return ", ".join(self._paths)


def _identity(name: str, path: Path) -> tuple[int, int, int]:
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(name, path, error) from None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _content(name: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(name, path, error) from None


def _unreadable(name: str, path: Path, error: OSError) -> PreconditionFailed:
    return PreconditionFailed(f"{name}: {path} cannot be read ({error.strerror})")
