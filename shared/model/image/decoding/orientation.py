"""Orientation of a picture: reader of that one EXIF or XMP tag, and turning of the pixels.

The reader takes any bytes and never raises. Other tags of the block are not looked at, so that an
odd one cannot lose the orientation.
"""

import re
from typing import Final, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

UPRIGHT: Final = 1
_ORIENTATIONS: Final = range(1, 9)
_TAG: Final = 0x0112
_SHORT: Final = 3
_LONG: Final = 4
_ENTRY_BYTES: Final = 12
_NAME: Final = b"Exif\x00\x00"
_XMP: Final = re.compile(rb"tiff:Orientation(?:\s*=\s*[\"']|>)\s*([0-9]+)")
_XMP_BYTES: Final = 2**18
_TURNS: Final = {
    3: cv2.ROTATE_180,
    6: cv2.ROTATE_90_CLOCKWISE,
    8: cv2.ROTATE_90_COUNTERCLOCKWISE,
}


def find_orientation(exif: bytes | memoryview | None, xmp: bytes | memoryview | None) -> int:
    """Find the orientation, 1..8; 1 if there is none or it makes no sense.

    Args:
        exif: A TIFF block, with or without the name in front of it.
        xmp: An XMP packet; used if the EXIF block has no such tag.
    """
    found = _in_exif(bytes(exif)) if exif else None
    if found is None and xmp:
        match = _XMP.search(xmp[:_XMP_BYTES])
        found = int(match[1][:4]) if match else None
    return found if found is not None and found in _ORIENTATIONS else UPRIGHT


def _in_exif(block: bytes) -> int | None:
    block = block.removeprefix(_NAME)
    order: Literal["little", "big"]
    match block[:2]:
        case b"II":
            order = "little"
        case b"MM":
            order = "big"
        case _:
            return None

    def number(at: int, size: int) -> int:
        return int.from_bytes(block[at : at + size], order)

    first = number(4, 4) + 2
    entries = min(number(first - 2, 2), max(0, len(block) - first) // _ENTRY_BYTES)
    for at in range(first, first + entries * _ENTRY_BYTES, _ENTRY_BYTES):
        if number(at, 2) == _TAG:
            kind, count = number(at + 2, 2), number(at + 4, 4)
            if count == 1 and kind in (_SHORT, _LONG):
                return number(at + 8, 2 if kind == _SHORT else 4)
            return UPRIGHT
    return None


def turn_upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Undo an orientation.

    Args:
        pixels: uint8, (height, width, 3), as stored.
        orientation: 1..8.

    Returns:
        The same pixels as they should be seen; contiguous.
    """
    turned: cv2.typing.MatLike = pixels
    match orientation:
        case 2:
            turned = cv2.flip(pixels, 1)
        case 4:
            turned = cv2.flip(pixels, 0)
        case 5:
            turned = cv2.transpose(pixels)
        case 7:
            turned = cv2.transpose(pixels)
            turned = cv2.flip(turned, -1, dst=turned)
        case 3 | 6 | 8:
            turned = cv2.rotate(pixels, _TURNS[orientation])
    return np.asarray(turned, np.uint8)
