"""Fast, strict decoding of plain JPEGs with libjpeg-turbo.

libjpeg-turbo warns of damage and goes on, with grey where data is missing; Pillow does not pass
the warning on. Here a picture is either decoded without any warning, to the same pixels as
Pillow's, or left to Pillow: what it refuses stays refused.
"""

from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from shared.errors import InvalidInput

_START: Final = b"\xff\xd8\xff"
# Where they are, they may say that the picture must be turned.
_ORIENTED: Final = (b"Exif\x00\x00", b"tiff:Orientation")


def decode_plain_jpeg(data: bytes, max_pixels: int, field: str) -> NDArray[np.uint8] | None:
    """Decode a JPEG in three colours that lies the way it is meant to be seen.

    Args:
        data: Any file.
        max_pixels: A larger picture is not decoded.
        field: What the caller's contract calls ``data``, for the error.

    Returns:
        uint8 (height, width, 3), BGR; None for a file that Pillow must judge.

    Raises:
        InvalidInput: If its pixels end too early.
    """
    header = _header(data)
    if header is None or header[2] != "YCbCr" or header[0] * header[1] > max_pixels:
        return None
    if any(mark in data for mark in _ORIENTED):
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "BGR", strict=True)
    except ValueError as error:
        if "remature end" in str(error):
            raise InvalidInput(field, f"is a truncated or damaged JPEG file: {error}") from error
        return None
    return pixels


def _header(data: bytes) -> tuple[int, int, str, str] | None:
    if not data.startswith(_START):
        return None
    try:
        header: tuple[int, int, str, str] = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return header
