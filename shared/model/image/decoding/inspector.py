"""Inspection of a picture before it is decoded: format, size and cost, against the limits."""

from collections.abc import Callable
from typing import Final

from shared.model.image.decoding.bmp import read_bmp_header
from shared.model.image.decoding.header import BadPicture, PictureFormat, PictureHeader
from shared.model.image.decoding.heif import read_avif_header, read_heic_header
from shared.model.image.decoding.jpeg_header import read_jpeg_header
from shared.model.image.decoding.png import read_png_header
from shared.model.image.decoding.signatures import READABLE, picture_format
from shared.model.image.decoding.webp import read_webp_header
from shared.settings import ImageLimits

# Progressive JPEGs have about ten scans; a picture of few pixels may have more.
_MAX_SCANS: Final = 16
# Of the largest picture: the pixels, one more byte each for a decoder's buffers, and six for the
# coefficients of a progressive JPEG of full colour or for the samples in the decoder's own order.
_MAX_BYTES_A_PIXEL: Final = 10
_READERS: Final[dict[PictureFormat, Callable[[bytes], PictureHeader]]] = {
    "JPEG": read_jpeg_header,
    "PNG": read_png_header,
    "WEBP": read_webp_header,
    "BMP": read_bmp_header,
    "HEIC": read_heic_header,
    "AVIF": read_avif_header,
}


def check_picture(data: bytes, limits: ImageLimits) -> PictureHeader:
    """Read a picture's header and check what decoding it would cost.

    Nothing is decoded; 10 MB of any content take at most some tens of milliseconds, a usual picture
    less than one.

    Args:
        data: An encoded picture.
        limits: Largest encoded size and pixel count.

    Raises:
        BadPicture: If the data is empty, too large, of another format, cut short, or costs too
            much to decode.
        Exception: Others, for data that no reader expects.
    """
    if not data:
        raise BadPicture(f"is empty; a {READABLE} picture is needed")
    if len(data) > limits.image_max_bytes:
        raise BadPicture(
            f"has {len(data)} bytes; at most {limits.image_max_bytes} are accepted "
            "(the server's MAGFACE_IMAGE_MAX_BYTES)"
        )
    header = read_header(data)
    _check_cost(header, limits)
    return header


def read_header(data: bytes) -> PictureHeader:
    """Read a picture's header without any limit.

    Raises:
        BadPicture: If the data is of another format, damaged or cut short.
        Exception: Others, for data that no reader expects.
    """
    return _READERS[picture_format(data)](data)


def _check_cost(header: PictureHeader, limits: ImageLimits) -> None:
    if header.width < 1 or header.height < 1:
        raise BadPicture(f"is a picture of {header.width}x{header.height} pixels")
    size = f"is a picture of {header.width}x{header.height} = {header.pixels} pixels"
    if header.pixels > limits.image_max_pixels:
        raise BadPicture(
            f"{size}; at most {limits.image_max_pixels} are accepted "
            "(the server's MAGFACE_IMAGE_MAX_PIXELS)"
        )
    if header.work > _MAX_SCANS * limits.image_max_pixels:
        raise BadPicture(
            f"{size} in {header.scans} scans, which takes too long to decode; "
            "save it as a baseline JPEG"
        )
    # A small picture has no need of the limit, and its file counts for more than its pixels.
    most = _MAX_BYTES_A_PIXEL * limits.image_max_pixels + limits.image_max_bytes
    if header.decode_bytes > most:
        raise BadPicture(
            f"{size} and takes {header.decode_bytes} bytes to decode; at most {most} are "
            "accepted; reduce it, or save it as a baseline JPEG"
        )
