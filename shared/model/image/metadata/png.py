"""PNG: its header, palette, pixels and orientation, without other chunks and what follows."""

import zlib
from typing import Final

from shared.model.image.decoding.orientation import UPRIGHT
from shared.model.image.decoding.png import png_chunks, png_orientation
from shared.model.image.metadata.exif import orientation_block

_SIGNATURE_BYTES: Final = 8
_KEPT: Final = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")


def strip_png(data: bytes) -> bytes:
    """Give the file without its metadata.

    Raises:
        BadPicture: If its chunks are damaged or cut short.
    """
    orientation = png_orientation(data)
    parts: list[bytes | memoryview] = [data[:_SIGNATURE_BYTES]]
    for chunk in png_chunks(data):
        if chunk.name in _KEPT:
            parts.append(chunk.whole)
        if chunk.name == b"IHDR" and orientation != UPRIGHT:
            parts.append(_chunk(b"eXIf", orientation_block(orientation)))
    return b"".join(parts)


def _chunk(name: bytes, body: bytes) -> bytes:
    checksum = zlib.crc32(name + body)
    return len(body).to_bytes(4, "big") + name + body + checksum.to_bytes(4, "big")
