"""Atomic file writes: a reader sees the old content or the new content, never a part of it."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def open_atomic(path: Path, mode: int = 0o644) -> Iterator[BinaryIO]:
    """Open a file that replaces ``path`` when the block ends without an exception.

    Args:
        path: Its folder must exist.
        mode: Permissions of the file, before the umask of the process.

    Yields:
        The file to write to. It is synced to disk before it is renamed.
    """
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
