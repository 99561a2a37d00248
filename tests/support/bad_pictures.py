"""Files that are no readable picture, one of each kind, for every way into a service."""

import base64
import io
import struct
from pathlib import Path

import numpy as np
from PIL import Image

from tests.shared.decoding.hostile import run_length_bmp, slow_jpeg, small_png

_FIXTURES = Path(__file__).parents[1] / "shared" / "model" / "fixtures" / "pictures"


def _saved(form: str, mode: str = "RGB", **how: object) -> bytes:
    grain = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(grain).convert(mode).save(file, form, **how)
    return file.getvalue()


def _with_zeros(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes(512) + data[middle + 512 :]


_JPEG, _PNG = _saved("JPEG"), small_png()
_HEIC = (_FIXTURES / "scene_orientation_1.heic").read_bytes()

# Each with words of its error.
BAD_PICTURES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "text": (b"no picture at all", "is text"),
    "base64": (base64.b64encode(_JPEG), "is base64 text"),
    "data URI": (b"data:image/jpeg;base64," + base64.b64encode(_JPEG), "is a data URI"),
    "web page": (b"<!doctype html><title>404</title>", "is a web page"),
    "GIF": (_saved("GIF"), "is a GIF"),
    "PDF": (b"%PDF-1.4\n", "is a PDF"),
    "zeros": (bytes(4096), "zeros"),
    "cut JPEG": (_JPEG[: len(_JPEG) // 2], "cut short"),
    "cut grey JPEG": (_saved("JPEG", "L")[:-500], "cut short"),
    "cut progressive JPEG": (_saved("JPEG", progressive=True)[:-900], "cut short"),
    "cut CMYK JPEG": (_saved("JPEG", "CMYK")[:-900], "cut short"),
    "JPEG header alone": (b"\xff\xd8\xff\xe0", "cut short"),
    "cut PNG": (_PNG[:-30], "cut short"),
    "PNG with zeros": (_with_zeros(_saved("PNG")), "damaged"),
    "PNG of two sizes": (_PNG[:16] + struct.pack(">II", 112, 113) + _PNG[24:], "damaged"),
    "cut WebP": (_saved("WEBP")[:-100], "cut short"),
    "cut AVIF": (_saved("AVIF")[:-100], "cut short"),
    "cut HEIC": (_HEIC[:-100], "cut short"),
    "HEIC with zeros": (_with_zeros(_HEIC), "damaged HEIC"),
    "cut BMP": (_saved("BMP")[:-100], "cut short"),
    "run-length BMP": (run_length_bmp(9000, 5000), "run-length"),
    "many scans": (slow_jpeg(2000, 2000, 300), "scans"),
}
