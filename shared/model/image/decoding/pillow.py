"""Decoding with Pillow, to BGR in strips, so that the pixels are never in memory three times."""

import io
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.model.image.decoding.header import BadPicture, PictureHeader

_STRIP_PIXELS: Final = 2**20
_SIXTEEN_BIT_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# The size is checked against the limits of the service before Pillow sees the file.
Image.MAX_IMAGE_PIXELS = None


def decode_with_pillow(data: bytes, header: PictureHeader) -> NDArray[np.uint8]:
    """Decode a PNG or BMP.

    Alpha is dropped, and 16-bit samples keep their high byte.

    Returns:
        uint8 (height, width, 3), BGR.

    Raises:
        BadPicture: If its size is another than that of the header.
        Exception: Almost any, if the data is damaged.
    """
    with Image.open(io.BytesIO(data), formats=(header.format,)) as picture:
        if picture.size != (header.width, header.height):
            raise BadPicture(f"is a damaged {header.format} file: it has two sizes")
        picture.load()
        return picture_to_bgr(picture)


def picture_to_bgr(picture: Image.Image) -> NDArray[np.uint8]:
    """Convert a loaded picture of any mode; uint8 (height, width, 3), BGR."""
    width, height = picture.size
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        strip = picture.crop((0, top, width, bottom))
        if strip.mode in _SIXTEEN_BIT_MODES:
            grey = (np.asarray(strip) >> 8).astype(np.uint8)
            cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR, dst=pixels[top:bottom])
        else:
            colour = strip if strip.mode == "RGB" else strip.convert("RGB")
            cv2.cvtColor(np.asarray(colour), cv2.COLOR_RGB2BGR, dst=pixels[top:bottom])
    return pixels
