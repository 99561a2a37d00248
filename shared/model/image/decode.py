"""Strict decoding of picture files to BGR pixels."""

import numpy as np
from numpy.typing import NDArray

from shared.model.image.decoding.header import PictureHeader, reading_picture
from shared.model.image.decoding.heif import decode_avif, decode_heic, read_heif_boxes
from shared.model.image.decoding.inspector import check_picture
from shared.model.image.decoding.jpeg import decode_jpeg
from shared.model.image.decoding.jpeg_header import read_markers
from shared.model.image.decoding.orientation import UPRIGHT, find_orientation, turn_upright
from shared.model.image.decoding.pillow import decode_with_pillow
from shared.model.image.decoding.png import decode_png, png_orientation
from shared.model.image.decoding.webp import decode_webp, read_first_frame
from shared.settings import ImageLimits


def decode_image(data: bytes, limits: ImageLimits, field: str = "data") -> NDArray[np.uint8]:
    """Decode one picture as it should be seen, but refuse damaged files.

    Format, size and cost are checked before decompression. The orientation is applied, greyscale is
    converted to three channels, alpha is dropped, and 16-bit samples keep their high byte. Of an
    animation the first frame is decoded.

    Args:
        data: An encoded picture.
        limits: Largest encoded size and pixel count.
        field: Path of the field, for the error.

    Returns:
        uint8 array of shape (height, width, 3), channels in BGR order.

    Raises:
        InvalidInput: If the data is empty, too large or too costly, of another format, truncated or
            damaged. It keeps no pixels in memory; see `reading_picture`.
    """
    return reading_picture(_decode_upright, field, data, limits)


def _decode_upright(data: bytes, limits: ImageLimits) -> NDArray[np.uint8]:
    return turn_upright(*_decode(data, check_picture(data, limits)))


def _decode(data: bytes, header: PictureHeader) -> tuple[NDArray[np.uint8], int]:
    match header.format:
        case "JPEG":
            markers = read_markers(data)
            return decode_jpeg(data, markers), find_orientation(markers.exif, markers.xmp)
        case "PNG":
            return decode_png(data, header), png_orientation(data)
        case "WEBP":
            frame = read_first_frame(data)
            return decode_webp(frame), frame.orientation
        case "HEIC":
            # The decoder turns the picture.
            return decode_heic(data, header), UPRIGHT
        case "AVIF":
            return decode_avif(data, header), read_heif_boxes(data, "AVIF").orientation
        case "BMP":
            return decode_with_pillow(data, header), UPRIGHT
