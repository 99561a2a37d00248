"""Strict decoding of JPEGs with libjpeg-turbo, in every colour space; damage is refused.

For damaged data libjpeg-turbo gives a warning and grey pixels; Pillow ignores the warning. The
pixels of whole files are the same as Pillow's.
"""

import re
from typing import Final

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image

from shared.model.image.decoding.header import BadPicture
from shared.model.image.decoding.jpeg_header import JpegMarkers

_START: Final = b"\xff\xd8\xff"
# A file with one of these in front of its pixels may have an EXIF orientation.
_EXIF: Final = b"Exif\x00\x00"
_XMP: Final = b"tiff:Orientation"
_FEW_SEGMENTS: Final = 40
# An interlaced or progressive file of more scans is inspected before it is decoded.
_MAX_PLAIN_SCANS: Final = 16
_SCAN: Final = b"\xff\xda"
_END: Final = b"\xff\xd9"
_STRIP_PIXELS: Final = 2**20
_CMYK: Final = 4
_EXTRANEOUS: Final = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
# Some cameras write a few bytes too many behind the pixels.
_FEW_BYTES: Final = 4


def decode_plain_jpeg(data: bytes, max_pixels: int) -> NDArray[np.uint8] | None:
    """Decode a colour JPEG without an EXIF orientation, in the least time.

    Args:
        data: Any file.
        max_pixels: A larger image is not decoded.

    Returns:
        uint8 (height, width, 3), BGR; None for a file that needs a closer look.

    Raises:
        BadPicture: If the pixel data is truncated.
    """
    header = _header(data)
    if header is None or header[2] != "YCbCr" or header[0] * header[1] > max_pixels:
        return None
    if not _is_plain(data):
        return None
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(data, "BGR", strict=True)
    except ValueError as error:
        if "remature end" not in str(error):
            return None
        damage = _damage(error, ended=False)
    else:
        return pixels
    raise damage


def decode_jpeg(data: bytes, markers: JpegMarkers) -> NDArray[np.uint8]:
    """Decode any JPEG.

    Args:
        data: The file.
        markers: Of the same file.

    Returns:
        uint8 (height, width, 3), BGR, as stored.

    Raises:
        BadPicture: If the file is damaged or cut short.
    """
    space = "CMYK" if markers.components == _CMYK else "BGR"
    pixels = _decode_strictly(data, markers, space)
    return pixels if space == "BGR" else _cmyk_to_bgr(pixels, markers.inverted)


def _decode_strictly(data: bytes, markers: JpegMarkers, space: str) -> NDArray[np.uint8]:
    for candidate in (data, None):
        # Only the first warning is known. One about metadata may hide damage, so that the file is
        # decoded once more without metadata.
        given = data if candidate is not None else _without_metadata(data, markers)
        try:
            pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(given, space, strict=True)
        except ValueError as error:
            warning = error.with_traceback(None)
        else:
            return pixels
        if "remature end" in str(warning):
            break
    if _is_padding(data, str(warning)):
        tolerated: NDArray[np.uint8] = simplejpeg.decode_jpeg(given, space, strict=False)
        return tolerated
    raise _damage(warning, ended=data.find(_END, markers.scan_start) >= 0)


def _without_metadata(data: bytes, markers: JpegMarkers) -> bytes:
    """Copy a file without its metadata, and with the usual values where decoders only warn."""
    parts = [data[:2]]
    for segment in markers.needed:
        body = bytearray(segment)
        if body[4:8] == b"JFIF":
            body[9:11] = b"\x01\x01"
        elif body[1] == _SCAN[1] and not markers.progressive:
            # Which coefficients the scan has: all of them.
            body[-3:] = b"\x00\x3f\x00"
        parts.append(bytes(body))
    pixels = markers.scan_start + len(markers.needed[-1])
    return b"".join((*parts, memoryview(data)[pixels:]))


def _is_padding(data: bytes, warning: str) -> bool:
    """Whether the warning is only about bytes between the pixels and the end of the file."""
    match = _EXTRANEOUS.search(warning)
    if match is None:
        return False
    count, end = int(match[1]), data.rfind(_END)
    extra = data[max(0, end - count) : end]
    return count <= _FEW_BYTES or len(set(extra)) == 1


def _damage(error: Exception, *, ended: bool) -> BadPicture:
    """Say what is wrong; without its last marker a file is cut short, whatever is met first."""
    if not ended or "remature end of JPEG" in str(error):
        return BadPicture("is a JPEG file that is cut short: the end of its pixels is missing")
    return BadPicture(f"is a truncated or damaged JPEG file: {error}")


def _cmyk_to_bgr(ink: NDArray[np.uint8], inverted: bool) -> NDArray[np.uint8]:
    height, width = ink.shape[:2]
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP_PIXELS // width)
    for top in range(0, height, rows):
        strip = ink[top : top + rows]
        if inverted:
            strip = 255 - strip
        colour = np.asarray(Image.fromarray(strip, "CMYK").convert("RGB"))
        cv2.cvtColor(colour, cv2.COLOR_RGB2BGR, dst=pixels[top : top + rows])
    return pixels


def _header(data: bytes) -> tuple[int, int, str, str] | None:
    if not data.startswith(_START):
        return None
    try:
        header: tuple[int, int, str, str] = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return header


def _is_plain(data: bytes) -> bool:
    """Whether a file has no orientation, and a few scans if it is progressive."""
    position, sequential = 2, False
    try:
        # Most files have less than ten; another file is inspected before it is decoded.
        for _ in range(_FEW_SEGMENTS):
            marker, kind = data[position], data[position + 1]
            if marker != 0xFF or kind < 0xC0 or 0xD0 <= kind <= 0xD9 or kind == 0xFF:
                return False
            if kind == _SCAN[1]:
                if data.find(_EXIF, 0, position) >= 0 or data.find(_XMP, 0, position) >= 0:
                    return False
                # A sequential file whose first scan has all three components has no other.
                once = sequential and data[position + 4] == 3
                return once or data.count(_SCAN, position) <= _MAX_PLAIN_SCANS
            sequential = sequential or kind in (0xC0, 0xC1)
            position += 2 + (data[position + 2] << 8 | data[position + 3])
    except IndexError:
        pass
    return False
