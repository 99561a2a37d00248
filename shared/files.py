"""Atomic file writes, temporary files and full disks."""

import errno
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final

from shared.errors import PreconditionFailed, Unavailable

logger = logging.getLogger(__name__)

# What a process gives to `os.umask` whose files are for its user alone.
PRIVATE: Final = 0o077
_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_FULL_TEXTS: Final = (
    *map(os.strerror, _FULL),
    "PytorchStreamWriter failed writing file",
    "unexpected pos",
)


def full_disk(error: BaseException, folder: Path) -> Unavailable | None:
    """Give the domain's error for a write that failed for lack of room; None for other errors.

    Args:
        error: Of the write, or one that was raised from it.
        folder: Where it was written to; named in the detail unless the error names a file.
    """
    cause: BaseException | None = error
    while cause is not None:
        if _says_full(cause):
            named = getattr(cause, "filename", None)
            where = Path(os.fsdecode(named)).parent if named else folder
            return Unavailable(
                "the service has no room left on a disk; free space or give it more, and try again",
                detail=f"{where}: {cause}",
            )
        cause = cause.__cause__ or cause.__context__
    return None


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno in _FULL
    # Libraries in C++ and Rust raise their own errors, with the system's text or without it.
    return any(text in str(error) for text in _FULL_TEXTS)


@contextmanager
def room_in(folder: Path) -> Iterator[None]:
    """Raise the domain's error when the block lacks room to write in a folder.

    Raises:
        Unavailable: If the disk or a quota is full, or a file became larger than is allowed.
    """
    try:
        yield
    except OSError as error:
        if full := full_disk(error, folder):
            raise full from error
        raise


def make_folder(folder: Path, setting: str) -> None:
    """Make the folder that a setting names, and check that files can be made in it.

    Args:
        folder: It may exist.
        setting: Name of the variable, for the error.

    Raises:
        PreconditionFailed: If that is not possible, for another reason than a full disk.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        if full := full_disk(error, folder):
            logger.warning("%s is not usable yet: %s", setting, full)
        else:
            raise PreconditionFailed(
                f"{setting}: no file can be made in {folder.absolute()} ({error.strerror}); name"
                " another folder, or give this user the right to write there"
            ) from error


@contextmanager
def clean_scratch(folder: Path, *patterns: str) -> Iterator[None]:
    """Remove what a killed process left in a folder of temporary files, and use it in the block.

    Nothing is removed while another process uses the folder, too.

    Args:
        folder: It must exist.
        patterns: Names of temporary files and folders, as in ``Path.glob``.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process uses %s; what is left in it stays", folder)
        else:
            for left in (found for pattern in patterns for found in folder.glob(pattern)):
                logger.warning("removing %s, left by a process that was killed", left)
                if left.is_dir() and not left.is_symlink():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def open_atomic(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends without an exception.

    Args:
        path: Its folder must exist.
        mode: Permissions of the file, before the umask of the process.

    Yields:
        The file to write to. It is synced to disk before it is renamed.

    Raises:
        Unavailable: If there is no room for it.
    """
    with room_in(path.parent), _open_partial(path, mode) as file:
        yield file


@contextmanager
def _open_partial(path: Path, mode: int) -> Iterator[BinaryIO]:
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(descriptor)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_atomically(path: Path, text: str, mode: int = 0o644) -> None:
    """Write a text file atomically; see `open_atomic`."""
    with open_atomic(path, mode) as file:
        file.write(text.encode())
