"""Strict decoding of JPEG, PNG, WebP and BMP files to BGR pixels."""

import io
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from shared.errors import InvalidInput
from shared.model.image.jpeg import decode_plain_jpeg
from shared.settings import ImageLimits

_FORMATS: Final = ("JPEG", "PNG", "WEBP", "BMP")
_ORIENTATION_TAG: Final = 0x0112
_SIXTEEN_BIT_MODES: Final = ("I;16", "I;16B", "I;16L", "I;16N", "I")
# Type and checksum of the last chunk of every PNG.
_PNG_END: Final = b"IEND\xae\x42\x60\x82"


def decode_image(data: bytes, limits: ImageLimits, field: str = "data") -> NDArray[np.uint8]:
    """Decode one image like ``cv2.imread``, but refuse damaged files.

    Size and pixel count are checked before decompression. The EXIF orientation is applied,
    greyscale is converted to three channels, alpha is dropped, and 16-bit samples keep their high
    byte. Of an animation the first frame is decoded.

    Args:
        data: A JPEG, PNG, WebP or BMP file.
        limits: Largest encoded size and pixel count.
        field: Path of the field, for the error.

    Returns:
        uint8 array of shape (height, width, 3), channels in BGR order.

    Raises:
        InvalidInput: If the data is empty, too large, of another format, truncated or damaged.
    """
    if not data:
        raise InvalidInput(field, "is empty; a JPEG, PNG, WebP or BMP picture is needed")
    if len(data) > limits.image_max_bytes:
        raise InvalidInput(
            field, f"has {len(data)} bytes; at most {limits.image_max_bytes} are accepted"
        )
    plain = decode_plain_jpeg(data, limits.image_max_pixels, field)
    if plain is not None:
        return plain
    with _open_header(data, field) as picture:
        _check_pixels(picture, limits, field)
        return _decode_pixels(picture, data, field)


def _open_header(data: bytes, field: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InvalidInput(field, f"has too many pixels: {error}") from error
    except UnidentifiedImageError as error:
        start = data[:8].hex(" ")
        raise InvalidInput(
            field,
            f"is not a readable JPEG, PNG, WebP or BMP picture (it starts with bytes {start})",
        ) from error
    # Pillow raises many kinds of exception for a damaged header.
    except Exception as error:
        raise InvalidInput(field, f"has a damaged header: {error}") from error


def _check_pixels(picture: Image.Image, limits: ImageLimits, field: str) -> None:
    width, height = picture.size
    if width < 1 or height < 1:
        raise InvalidInput(field, f"is a picture of {width}x{height} pixels")
    if width * height > limits.image_max_pixels:
        raise InvalidInput(
            field,
            f"is a picture of {width}x{height} = {width * height} pixels; "
            f"at most {limits.image_max_pixels} are accepted",
        )


def _decode_pixels(picture: Image.Image, data: bytes, field: str) -> NDArray[np.uint8]:
    try:
        picture.load()
    except Exception as error:
        raise InvalidInput(
            field, f"is a truncated or damaged {picture.format} file: {error}"
        ) from error
    if picture.format == "PNG" and _PNG_END not in data:
        raise InvalidInput(field, "is a truncated PNG file: its closing IEND chunk is missing")
    if picture.mode in _SIXTEEN_BIT_MODES:
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if _orientation(picture) != 1:
        picture = ImageOps.exif_transpose(picture)
    if picture.mode != "RGB":
        picture = picture.convert("RGB")
    return np.asarray(cv2.cvtColor(np.asarray(picture), cv2.COLOR_RGB2BGR), dtype=np.uint8)


def _orientation(picture: Image.Image) -> Any:
    try:
        return picture.getexif().get(_ORIENTATION_TAG, 1)
    # The pixels are usable without a valid EXIF block; cv2 ignores it as well.
    except Exception:
        return 1
