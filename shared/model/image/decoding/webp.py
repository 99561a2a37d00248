"""WebP: reader of its chunks, and decoding of the still picture or the first frame.

OpenCV decodes straight to BGR. Pillow goes through the decoder for animations, which takes 16 bytes
for each pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.image.decoding.header import BadPicture, PictureHeader
from shared.model.image.decoding.orientation import find_orientation
from shared.model.image.decoding.zeros import has_zero_run

_FILE_HEADER_BYTES: Final = 12
_CHUNK_HEADER_BYTES: Final = 8
_FRAME_HEADER_BYTES: Final = 16
# A still picture has at most seven; an animation has one for each frame, but only the first counts.
_MAX_CHUNKS: Final = 64
_PIXEL_CHUNKS: Final = (b"VP8 ", b"VP8L")
_CUT: Final = "is a WebP file that is cut short"


@dataclass(slots=True)
class WebpFrame:
    """The still picture of a file, or the first frame of an animation.

    Attributes:
        width: Of the whole picture; a frame may be smaller.
        height: The same.
        chunk: The chunk with the pixels of the frame.
        left: Of the frame in the picture, in pixels.
        top: The same.
        exif: Body of the EXIF chunk; None without one.
        xmp: Body of the XMP chunk; None without one.
    """

    width: int
    height: int
    chunk: memoryview
    left: int = 0
    top: int = 0
    exif: memoryview | None = None
    xmp: memoryview | None = None

    @property
    def own_size(self) -> tuple[int, int]:
        """Width and height of the frame itself, in pixels."""
        return _frame_size(bytes(self.chunk[:4]), self.chunk[_CHUNK_HEADER_BYTES:])

    @property
    def orientation(self) -> int:
        """From the metadata, 1..8."""
        return find_orientation(self.exif, self.xmp)


def read_webp_header(data: bytes) -> PictureHeader:
    """Read the size of a WebP.

    Raises:
        BadPicture: If the header is damaged, or the file cut short.
    """
    frame = read_first_frame(data)
    pixels = frame.width * frame.height
    return PictureHeader("WEBP", frame.width, frame.height, 7 * pixels + len(data))


def read_first_frame(data: bytes) -> WebpFrame:
    """Find the chunks of the still picture, or of the first frame.

    Raises:
        BadPicture: If the header is damaged, or the file cut short.
    """
    announced = int.from_bytes(data[4:8], "little") + _CHUNK_HEADER_BYTES
    if announced > len(data):
        raise BadPicture(f"{_CUT}: it has {len(data)} of {announced} bytes")
    frame: WebpFrame | None = None
    canvas: tuple[int, int] | None = None
    exif: memoryview | None = None
    xmp: memoryview | None = None
    for name, whole in _chunks(memoryview(data)[_FILE_HEADER_BYTES:announced]):
        body = whole[_CHUNK_HEADER_BYTES:]
        if name == b"VP8X" and len(body) >= 10:
            canvas = (1 + _uint24(body, 4), 1 + _uint24(body, 7))
        elif name == b"EXIF":
            exif = body
        elif name == b"XMP ":
            xmp = body
        elif frame is None and name in _PIXEL_CHUNKS:
            size = _frame_size(name, whole[_CHUNK_HEADER_BYTES:])
            # Transparency is dropped, so that its chunk is left out.
            frame = WebpFrame(*size, whole)
        elif frame is None and name == b"ANMF" and canvas is not None:
            frame = _first_of_animation(body, canvas)
    if frame is None:
        raise BadPicture("is a damaged WebP file: it has no pixels")
    frame.exif, frame.xmp = exif, xmp
    return frame


def decode_webp(frame: WebpFrame) -> NDArray[np.uint8]:
    """Decode one frame; uint8 (height, width, 3), BGR, black outside the frame.

    Raises:
        BadPicture: If its data is damaged or cut short.
    """
    name = bytes(frame.chunk[:4])
    if name == b"VP8 " and has_zero_run(frame.chunk):
        raise BadPicture("is a damaged WebP file: a part of its pixels was overwritten with zeros")
    padding = bytes(len(frame.chunk) % 2)
    size = 4 + len(frame.chunk) + len(padding)
    still = b"".join((b"RIFF", size.to_bytes(4, "little"), b"WEBP", frame.chunk, padding))
    # Warnings and errors of the decoder come as None.
    decoded = cv2.imdecode(
        np.frombuffer(still, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    )
    if decoded is None:
        raise BadPicture("is a WebP file whose pixels are damaged or cut short")
    pixels = np.asarray(decoded, np.uint8)
    height, width = pixels.shape[:2]
    if (width, height) == (frame.width, frame.height):
        return pixels
    canvas = np.zeros((frame.height, frame.width, 3), np.uint8)
    canvas[frame.top : frame.top + height, frame.left : frame.left + width] = pixels
    return canvas


def _first_of_animation(body: memoryview, canvas: tuple[int, int]) -> WebpFrame:
    if len(body) < _FRAME_HEADER_BYTES:
        raise BadPicture("is a damaged WebP file: its first frame is too short")
    for name, whole in _chunks(body[_FRAME_HEADER_BYTES:]):
        if name in _PIXEL_CHUNKS:
            left, top = 2 * _uint24(body, 0), 2 * _uint24(body, 3)
            width, height = _frame_size(name, whole[_CHUNK_HEADER_BYTES:])
            if left + width > canvas[0] or top + height > canvas[1]:
                raise BadPicture("is a damaged WebP file: its first frame is outside the picture")
            return WebpFrame(*canvas, whole, left, top)
    raise BadPicture("is a damaged WebP file: its first frame has no pixels")


def _frame_size(name: bytes, body: memoryview) -> tuple[int, int]:
    if name == b"VP8 " and len(body) >= 10 and bytes(body[3:6]) == b"\x9d\x01\x2a":
        bits = int.from_bytes(body[6:10], "little")
        return bits & 0x3FFF, bits >> 16 & 0x3FFF
    if name == b"VP8L" and len(body) >= 5 and body[0] == 0x2F:
        bits = int.from_bytes(body[1:5], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    raise BadPicture("is a damaged WebP file: the header of its pixels is wrong")


def _chunks(view: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    """Read name and whole of each chunk."""
    position = 0
    for _ in range(_MAX_CHUNKS):
        if position + _CHUNK_HEADER_BYTES > len(view):
            return
        length = int.from_bytes(view[position + 4 : position + 8], "little")
        end = position + _CHUNK_HEADER_BYTES + length
        if end > len(view):
            raise BadPicture(f"{_CUT}: its chunk {bytes(view[position : position + 4])!r} is")
        yield bytes(view[position : position + 4]), view[position:end]
        position = end + length % 2


def _uint24(view: memoryview, at: int) -> int:
    return int.from_bytes(view[at : at + 3], "little")
