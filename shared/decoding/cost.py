"""What a picture costs to decode, by its header."""

import struct
from dataclasses import dataclass
from typing import Final

import simplejpeg

from shared.decoding.messages import Operation
from shared.decoding.settings import BYTES_PER_PIXEL
from shared.model.image.decoding.inspector import read_header
from shared.model.image.face import FaceImage
from shared.settings import ImageLimits

_MB: Final = 2**20
# For the detector, and for what does not grow with the picture.
_FIXED_BYTES: Final = 160 * _MB
# A decoded pixel takes about so long, in seconds of one processor.
_SECONDS_PER_PIXEL: Final = 15e-9
_FIXED_SECONDS: Final = 0.002
_DETECTION_SECONDS: Final = 0.03
_JPEG: Final = b"\xff\xd8\xff"
_START_OF_SCAN: Final = b"\xff\xda"
_PNG: Final = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
# A scan of a progressive JPEG takes a tenth of the time that a whole other JPEG takes.
_SCAN_SHARE: Final = 0.1
_OTHER_FORMATS: Final = 2.0
# Pillow decodes run-length pictures in Python.
_RUN_LENGTH: Final = 12.0


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """What a picture costs.

    Attributes:
        pixels: Decoded; at most the limit, since a larger picture is refused by its header.
        seconds: Processor time, estimated.
        memory_bytes: Most memory that it may take.
    """

    pixels: int
    seconds: float
    memory_bytes: int


def decoded_pixels(data: bytes, limits: ImageLimits) -> int:
    """Return the number of pixels that decoding a picture gives; 0 if it is no picture.

    Only the header is read. A picture above the limit counts as 0, because it is refused; one
    whose header cannot be read here counts as the largest one.

    Args:
        data: An encoded picture.
        limits: The largest picture.
    """
    size = _size(data)
    pixels = limits.image_max_pixels if size is None else size[0] * size[1]
    return pixels if pixels <= limits.image_max_pixels else 0


def decode_cost(face: FaceImage, operation: Operation, limits: ImageLimits) -> DecodeCost:
    """Estimate what the work on a picture costs.

    Args:
        face: The picture.
        operation: What is to be done with it.
        limits: The largest picture.
    """
    pixels = decoded_pixels(face.data, limits)
    seconds = _FIXED_SECONDS + pixels * _SECONDS_PER_PIXEL * _slowness(face.data)
    reads = operation in ("read", "check_face")
    if operation == "detect" or (reads and face.alignment == "detect"):
        seconds += _DETECTION_SECONDS
    memory = _FIXED_BYTES + int(pixels * BYTES_PER_PIXEL) + 2 * len(face.data)
    return DecodeCost(pixels, seconds, memory)


def _slowness(data: bytes) -> float:
    """Return the time for a pixel, relative to that of a simple JPEG."""
    if data.startswith(_JPEG):
        # In compressed data the mark cannot occur by chance.
        return 1.0 + _SCAN_SHARE * data.count(_START_OF_SCAN)
    if data.startswith(b"BM") and data[30:31] in (b"\x01", b"\x02"):
        return _RUN_LENGTH
    return _OTHER_FORMATS


def _size(data: bytes) -> tuple[int, int] | None:
    """Read the width and height; None if they are not where they usually are."""
    if data.startswith(_JPEG):
        return _jpeg_size(data)
    if data.startswith(b"\x89PNG"):
        return _unpack(">II", data, 16) if data.startswith(_PNG) else None
    if data.startswith(b"BM"):
        core = data[14:18] == b"\x0c\x00\x00\x00"
        width, height = _unpack("<HH", data, 18) if core else _unpack("<ii", data, 18)
        return abs(width), abs(height)
    if data.startswith(b"RIFF"):
        return _webp_size(data)
    if data[4:8] == b"ftyp":
        return _heif_size(data)
    return 0, 0


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return width, height


def _heif_size(data: bytes) -> tuple[int, int] | None:
    try:
        header = read_header(data)
    # The decode process says what is wrong with it.
    except Exception:
        return None
    return header.width, header.height


def _webp_size(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8 ":
            width, height = _unpack("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data.ljust(25, b"\0"), 21)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            padded = data.ljust(30, b"\0")
            width, height = (int.from_bytes(padded[i : i + 3], "little") for i in (24, 27))
            return width + 1, height + 1
        case _:
            return None


def _unpack(layout: str, data: bytes, offset: int) -> tuple[int, int]:
    if len(data) < offset + struct.calcsize(layout):
        return 0, 0
    first, second = struct.unpack_from(layout, data, offset)
    return first, second
