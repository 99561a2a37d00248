"""Image files for tests, encoded by another library than the one that decodes them."""

import io
import struct
import zlib

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.settings import ImageLimits

LIMITS = ImageLimits()


def scene(height: int = 90, width: int = 140) -> NDArray[np.uint8]:
    """A smooth image whose four corners and three channels all differ."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    blue, green, red = 200 * x / width, 180 * y / height, 60 + 150 * (x + y) / (height + width)
    return np.rint(np.stack([blue, green, red], axis=-1)).astype(np.uint8)


def encode(pixels: NDArray[np.generic], suffix: str = ".png") -> bytes:
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def with_orientation(pixels: NDArray[np.uint8], orientation: int) -> bytes:
    """A JPEG with the given pixels and an EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(pixels[..., ::-1]).save(file, "JPEG", quality=98, subsampling=0, exif=exif)
    return file.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A truncated PNG whose header gives a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + checksum

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(100)))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def bmp_header(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + 100, 0, 0, 54) + header + bytes(100)
