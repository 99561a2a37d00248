"""Reading of files that a user names, which may be anything that has a name.

Each error names the path.
"""

import codecs
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from shared.errors import InvalidInput

# The marks of UTF-32 begin with those of UTF-16.
_BYTE_ORDER_MARKS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading, unless it is a folder, a pipe, a socket or a device.

    What was opened is looked at, not the name, which may mean something else a moment later.

    Raises:
        InvalidInput: If it is no regular file or cannot be opened; names the path.
    """
    try:
        # Without O_NONBLOCK, opening a pipe waits for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error) from error
    # A zero byte, or a character that is in no name of a file.
    except ValueError as error:
        raise InvalidInput(str(path), f"cannot be the path of a file: {error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise no_file(path, mode)
    return os.fdopen(descriptor, "rb")


def read_regular(path: Path, most_bytes: int | None = None) -> bytes:
    """Read a file; see `open_regular`.

    Args:
        path: The file.
        most_bytes: Larger files are refused; None for any size.

    Raises:
        InvalidInput: If it is no regular file, cannot be read or is too large; names the path.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if most_bytes is not None and size > most_bytes:
            raise InvalidInput(str(path), f"has {size} bytes; at most {most_bytes} are possible")
        try:
            return file.read()
        except OSError as error:
            raise unreadable(path, error) from error


def read_text(path: Path) -> str:
    """Read a text file as UTF-8, or as UTF-16 or UTF-32 if it begins with their byte order mark.

    Raises:
        InvalidInput: If it cannot be read or is no such text; names the path.
    """
    data = read_regular(path)
    marks = (code for mark, code in _BYTE_ORDER_MARKS if data.startswith(mark))
    try:
        return data.decode(next(marks, "utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidInput(str(path), f"cannot be read as text: {error}") from error


def unreadable(path: Path, error: OSError) -> InvalidInput:
    """Return the error that names a file or folder that cannot be read."""
    return InvalidInput(str(path), f"cannot be read: {error.strerror or error}")


def no_file(path: Path, mode: int) -> InvalidInput:
    """Return the error that names what is no regular file, by its mode."""
    what = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
    return InvalidInput(str(path), f"is {what}, not a file")
