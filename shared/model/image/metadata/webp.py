"""WebP: the still picture or the first frame, and its orientation, without other chunks."""

import struct
from typing import Final

from shared.model.image.decoding.orientation import UPRIGHT
from shared.model.image.decoding.webp import WebpFrame, read_first_frame
from shared.model.image.metadata.exif import orientation_block

_HAS_EXIF: Final = 0x08
_HAS_FRAMES: Final = 0x02
_ANIMATION: Final = bytes(6)


def strip_webp(data: bytes) -> bytes:
    """Give the file without its metadata, transparency and further frames.

    Raises:
        BadPicture: If its chunks are damaged or cut short.
    """
    frame = read_first_frame(data)
    orientation = frame.orientation
    flags, chunks = 0, [_padded(bytes(frame.chunk))]
    if frame.own_size != (frame.width, frame.height):
        flags |= _HAS_FRAMES
        chunks = [_chunk(b"ANIM", _ANIMATION), _chunk(b"ANMF", _frame_header(frame) + chunks[0])]
    if orientation != UPRIGHT:
        flags |= _HAS_EXIF
        chunks.append(_chunk(b"EXIF", orientation_block(orientation)))
    if flags:
        size = _uint24(frame.width - 1) + _uint24(frame.height - 1)
        chunks.insert(0, _chunk(b"VP8X", struct.pack("<I", flags) + size))
    body = b"WEBP" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _frame_header(frame: WebpFrame) -> bytes:
    width, height = frame.own_size
    places = (frame.left // 2, frame.top // 2, width - 1, height - 1, 0)
    return b"".join(map(_uint24, places)) + bytes(1)


def _chunk(name: bytes, body: bytes) -> bytes:
    return _padded(name + struct.pack("<I", len(body)) + body)


def _padded(chunk: bytes) -> bytes:
    return chunk + bytes(len(chunk) % 2)


def _uint24(number: int) -> bytes:
    return number.to_bytes(3, "little")
