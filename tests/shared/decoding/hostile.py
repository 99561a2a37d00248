"""Pictures that cost far more than their bytes."""

import io
import struct
import zlib

import cv2
import numpy as np
from PIL import Image


def flat_png(width: int, height: int) -> bytes:
    """A PNG of one colour, of some bytes for each thousand pixels."""
    rows = zlib.compressobj(1)
    row = b"\0" + bytes(3 * width)
    data = b"".join(rows.compress(row) for _ in range(height)) + rows.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    )


def png_above(max_pixels: int) -> bytes:
    """A PNG of one colour with one row more than a limit allows."""
    width = 6500
    return flat_png(width, max_pixels // width + 1)


def slow_jpeg(width: int, height: int, scans: int) -> bytes:
    """A progressive JPEG that repeats its last scan, each of which passes over all pixels."""
    file = io.BytesIO()
    Image.new("L", (width, height), 128).save(file, "JPEG", progressive=True, quality=50)
    data = file.getvalue()
    last, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    return data[:end] + data[last:end] * scans + data[end:]


def run_length_bmp(width: int, height: int) -> bytes:
    """A BMP of 68 bytes that claims run-length pixels and ends at once."""
    palette = bytes(3 * 4)
    pixels = b"\x00\x01"
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(pixels), 0, 0, 3, 3)
    start = 14 + len(info) + len(palette)
    head = struct.pack("<2sIHHI", b"BM", start + len(pixels), 0, 0, start)
    return head + info + palette + pixels


def small_png(value: int = 0) -> bytes:
    """An aligned crop."""
    return cv2.imencode(".png", np.full((112, 112, 3), value, np.uint8))[1].tobytes()
