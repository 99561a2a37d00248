"""Removal of metadata: what is left of a file is its pixels and its orientation.

Places, times, names, serial numbers, previews, colour profiles and bytes behind the end of the
picture are removed. The pixels stay as they are encoded, so that nothing is lost.
"""

from collections.abc import Callable
from typing import Final

from shared.model.image.decoding.header import PictureFormat
from shared.model.image.decoding.signatures import picture_format
from shared.model.image.metadata.bmp import strip_bmp
from shared.model.image.metadata.heif import strip_heif
from shared.model.image.metadata.jpeg import strip_jpeg
from shared.model.image.metadata.png import strip_png
from shared.model.image.metadata.webp import strip_webp

_STRIPPERS: Final[dict[PictureFormat, Callable[[bytes], bytes]]] = {
    "JPEG": strip_jpeg,
    "PNG": strip_png,
    "WEBP": strip_webp,
    "BMP": strip_bmp,
    "HEIC": strip_heif,
    "AVIF": strip_heif,
}


def strip_metadata(data: bytes) -> bytes:
    """Give a picture without its metadata.

    It decodes to the same pixels, and the result of stripping it again is the same.

    Args:
        data: An encoded picture that can be decoded.

    Returns:
        The same object if nothing is to be removed.

    Raises:
        BadPicture: If it is no picture, or its structure is damaged.
    """
    stripped = _STRIPPERS[picture_format(data)](data)
    return data if stripped == data else stripped
