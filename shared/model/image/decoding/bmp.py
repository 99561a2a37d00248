"""Reader of a BMP's header; reads no pixels."""

import struct
from typing import Final

from shared.model.image.decoding.header import BadPicture, PictureHeader

_FILE_HEADER_BYTES: Final = 14
_CORE_HEADER_BYTES: Final = 12
_INFO_HEADER_BYTES: Final = 40
_COMPRESSIONS: Final = {1: "run-length", 2: "run-length", 4: "JPEG", 5: "PNG"}
_DEPTHS: Final = (1, 4, 8, 16, 24, 32)


def read_bmp_header(data: bytes) -> PictureHeader:
    """Read the size of a BMP and check that its pixels are all there.

    Raises:
        BadPicture: If the header is damaged, the pixels are compressed, or the file is cut short.
    """
    width, height, depth = _read_size(data)
    expected = _start(data) + _row_bytes(width, depth) * (height - 1) + (width * depth + 7) // 8
    if len(data) < expected:
        raise BadPicture(f"is a BMP file that is cut short: it has {len(data)} of {expected} bytes")
    return PictureHeader("BMP", width, height, 7 * width * height)


def pixels_end(data: bytes) -> int:
    """Give where the pixels end, with the padding of the last row, in bytes.

    Raises:
        BadPicture: If the header is damaged.
    """
    width, height, depth = _read_size(data)
    return _start(data) + _row_bytes(width, depth) * height


def _start(data: bytes) -> int:
    return int.from_bytes(data[10:14], "little")


def _row_bytes(width: int, depth: int) -> int:
    """Each row is padded to four bytes; some writers leave the padding of the last one out."""
    return (width * depth + 31) // 32 * 4


def _read_size(data: bytes) -> tuple[int, int, int]:
    header_bytes = int.from_bytes(data[14:18], "little")
    if len(data) < _FILE_HEADER_BYTES + min(header_bytes, _INFO_HEADER_BYTES):
        raise BadPicture("is a BMP file that is cut short: it ends in its header")
    compression = 0
    if header_bytes == _CORE_HEADER_BYTES:
        width, height, _, depth = struct.unpack("<HHHH", data[18:26])
    elif header_bytes >= _INFO_HEADER_BYTES:
        width, height, _, depth, compression = struct.unpack("<iiHHI", data[18:34])
    else:
        raise BadPicture(f"is a damaged BMP file: its header has {header_bytes} bytes")
    if compression in _COMPRESSIONS:
        raise BadPicture(
            f"is a BMP file with {_COMPRESSIONS[compression]} compression, which is not read; "
            "save it without compression, or as PNG"
        )
    if depth not in _DEPTHS:
        raise BadPicture(f"is a damaged BMP file: it has {depth} bits for each pixel")
    # Rows are stored from the top if the height is negative.
    return width, abs(height), depth
