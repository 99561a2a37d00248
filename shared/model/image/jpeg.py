"""Fast decoding of plain JPEGs with libjpeg-turbo; damaged files are refused.

For damaged data libjpeg-turbo gives a warning and grey pixels; Pillow ignores the warning. This
module decodes an image only if there is no warning, to the same pixels as Pillow. All other images
are left to Pillow.
"""

from typing import Final

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from shared.errors import InvalidInput

_START: Final = b"\xff\xd8\xff"
# A file with one of these may have an EXIF orientation.
_ORIENTED: Final = (b"Exif\x00\x00", b"tiff:Orientation")


def decode_plain_jpeg(data: bytes, max_pixels: int, field: str) -> NDArray[np.uint8] | None:
    """Decode a colour JPEG without an EXIF orientation.

    Args:
        data: Any file.
        max_pixels: A larger image is not decoded.
        field: Path of the field, for the error.

    Returns:
        uint8 (height, width, 3), BGR; None for a file that Pillow must decode.

    Raises:
        InvalidInput: If the pixel data is truncated.
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
