"""EXIF block with an orientation and nothing else."""

import struct
from typing import Final

_ORIENTATION: Final = 0x0112
_SHORT: Final = 3


def orientation_block(orientation: int) -> bytes:
    """Make a TIFF block with one tag.

    Args:
        orientation: 1..8.
    """
    first = struct.pack("<2sHI", b"II", 42, 8)
    entry = struct.pack("<HHIHH", _ORIENTATION, _SHORT, 1, orientation, 0)
    return first + struct.pack("<H", 1) + entry + bytes(4)
