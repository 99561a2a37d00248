"""PNG: reader of its chunks, which checks that they are whole, and decoding."""

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.model.image.decoding.header import BadPicture, PictureHeader
from shared.model.image.decoding.orientation import find_orientation
from shared.model.image.decoding.pillow import decode_with_pillow

_SIGNATURE_BYTES: Final = 8
# The pixels of a large file come in thousands of chunks; no writer needs more than these.
_MAX_CHUNKS: Final = 20_000
# Samples of a pixel by colour type: grey, RGB, palette, grey with alpha, RGB with alpha.
_SAMPLES: Final = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
# Deflate makes at most so many bytes of one.
_MAX_INFLATION: Final = 1032
_NAMELESS_BYTES: Final = 12
_NEEDED: Final = (b"IHDR", b"PLTE", b"IDAT", b"IEND")
# The bit of a chunk's name that says that a decoder may ignore it.
_ANCILLARY: Final = 0x20
_TEXT_CHUNKS: Final = (b"tEXt", b"zTXt", b"iTXt")
_TEXT_BYTES: Final = 2**18


@dataclass(frozen=True, slots=True)
class PngChunk:
    """One chunk; ``whole`` also has its length, name and checksum."""

    name: bytes
    body: memoryview
    whole: memoryview


def read_png_header(data: bytes) -> PictureHeader:
    """Read the size of a PNG and check that its pixel data can be complete.

    Raises:
        BadPicture: If the header is damaged, or the file cut short.
    """
    width = height = row_bytes = compressed = 0
    for chunk in png_chunks(data):
        if chunk.name == b"IHDR":
            width, height, row_bytes = _read_ihdr(chunk)
        elif chunk.name == b"IDAT":
            compressed += len(chunk.body)
    if not row_bytes:
        raise BadPicture("is a damaged PNG file: it has no header")
    if compressed * _MAX_INFLATION < row_bytes * height:
        raise BadPicture(
            f"is a PNG file that is cut short or damaged: {compressed} bytes of pixel data cannot "
            f"hold {width}x{height} pixels"
        )
    return PictureHeader("PNG", width, height, 7 * width * height + len(data))


def png_chunks(data: bytes) -> Iterator[PngChunk]:
    """Read the chunks up to and including the closing IEND.

    Raises:
        BadPicture: If the chunks are too many, or end before IEND.
    """
    view, position = memoryview(data), _SIGNATURE_BYTES
    for _ in range(_MAX_CHUNKS):
        length = int.from_bytes(view[position : position + 4], "big")
        end = position + _NAMELESS_BYTES + length
        if end > len(data) or position + _NAMELESS_BYTES > len(data):
            raise BadPicture("is a PNG file that is cut short: its closing IEND chunk is missing")
        name = bytes(view[position + 4 : position + 8])
        yield PngChunk(name, view[position + 8 : end - 4], view[position:end])
        if name == b"IEND":
            return
        position = end
    raise BadPicture(f"is a PNG file of more than {_MAX_CHUNKS} chunks")


def checksum_is_right(chunk: PngChunk) -> bool:
    """Whether the checksum at the end of a chunk is that of its name and body."""
    return zlib.crc32(chunk.whole[4:-4]) == int.from_bytes(chunk.whole[-4:], "big")


def _read_ihdr(chunk: PngChunk) -> tuple[int, int, int]:
    if len(chunk.body) != 13 or not checksum_is_right(chunk):
        raise BadPicture("is a damaged PNG file: the checksum of its header is wrong")
    width, height, depth, colour = struct.unpack(">IIBB", chunk.body[:10])
    if colour not in _SAMPLES:
        raise BadPicture(f"is a damaged PNG file: there is no colour type {colour}")
    return width, height, 1 + (width * depth * _SAMPLES[colour] + 7) // 8


def decode_png(data: bytes, header: PictureHeader) -> NDArray[np.uint8]:
    """Decode a PNG; only its pixels, palette and header reach the decoder.

    Returns:
        uint8 (height, width, 3), BGR.

    Raises:
        BadPicture: If a checksum is wrong.
        Exception: Almost any, if the data is damaged.
    """
    parts: list[bytes | memoryview] = [data[:_SIGNATURE_BYTES]]
    for chunk in png_chunks(data):
        if chunk.name in _NEEDED:
            if not checksum_is_right(chunk):
                raise BadPicture(
                    f"is a damaged PNG file: the checksum of a {chunk.name.decode()} chunk is wrong"
                )
            parts.append(chunk.whole)
        elif not chunk.name[0] & _ANCILLARY:
            raise BadPicture(f"is a PNG file with the non-standard chunk {chunk.name!r}")
    return decode_with_pillow(b"".join(parts), header)


def png_orientation(data: bytes) -> int:
    """Read the orientation, 1..8, from the eXIf chunk, ImageMagick's EXIF profile or XMP."""
    exif: bytes | memoryview | None = None
    xmp: bytes | None = None
    for chunk in png_chunks(data):
        if chunk.name == b"eXIf":
            exif = chunk.body
        elif chunk.name in _TEXT_CHUNKS:
            keyword, _, rest = bytes(chunk.body[:_TEXT_BYTES]).partition(b"\x00")
            if keyword == b"XML:com.adobe.xmp":
                xmp = _text(chunk.name, rest)
            elif keyword == b"Raw profile type exif":
                exif = exif or _profile(_text(chunk.name, rest))
    return find_orientation(exif, xmp)


def _text(name: bytes, rest: bytes) -> bytes:
    """Give the text of a chunk behind its keyword; inflates no more than `_TEXT_BYTES`."""
    compressed = name == b"zTXt"
    if name == b"iTXt":
        compressed = rest[:1] == b"\x01"
        rest = b"".join(rest[2:].split(b"\x00", 2)[2:])
    elif compressed:
        rest = rest[1:]
    if not compressed:
        return rest
    try:
        return zlib.decompressobj().decompress(rest, _TEXT_BYTES)
    except zlib.error:
        return b""


def _profile(text: bytes) -> bytes:
    """Decode a profile of ImageMagick: its name, its length, and lines of hexadecimal digits."""
    try:
        return bytes.fromhex(b"".join(text.split(b"\n")[3:]).decode("ascii"))
    except ValueError:
        return b""
