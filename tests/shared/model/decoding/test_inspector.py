"""Headers of pictures against Pillow's, and what is refused before anything is decoded."""

import contextlib
import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from shared.errors import InvalidInput
from shared.model.image.decoding.header import PictureHeader, reading_picture
from shared.model.image.decoding.inspector import check_picture
from shared.settings import ImageLimits
from tests.shared.model.pictures import LIMITS, bmp_header, encode, png_header, scene


def inspect(data: bytes, limits: ImageLimits = LIMITS) -> PictureHeader:
    return reading_picture(check_picture, "images[3].data", data, limits)


def saved(form: str, mode: str = "RGB", **how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene()).convert(mode).save(file, form, **how)
    return file.getvalue()


def with_chunks(name: bytes, body: bytes, count: int) -> bytes:
    """A PNG with so many extra chunks before its pixels."""
    png = encode(scene())
    checksum = struct.pack(">I", zlib.crc32(name + body))
    chunk = struct.pack(">I", len(body)) + name + body + checksum
    return png[:33] + chunk * count + png[33:]


def with_scans(scans: int, width: int, height: int, subsampling: int = 2) -> bytes:
    """A progressive JPEG of so many scans, at least 10, that claims a size."""
    whole = bytearray(saved("JPEG", progressive=True, subsampling=subsampling))
    frame = whole.index(b"\xff\xc2")
    whole[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    first = whole.index(b"\xff\xda")
    second = whole.index(b"\xff\xda", first + 2)
    return bytes(whole[:first] + whole[first:second] * (scans - 9) + whole[second:])


@pytest.mark.parametrize(
    ("form", "mode", "how"),
    [
        ("JPEG", "RGB", {}),
        ("JPEG", "L", {}),
        ("JPEG", "CMYK", {}),
        ("JPEG", "RGB", {"icc_profile": bytes(200_000), "exif": b"Exif\0\0" + bytes(60_000)}),
        ("PNG", "RGBA", {}),
        ("PNG", "P", {}),
        ("PNG", "1", {}),
        ("WEBP", "RGB", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGBA", {"lossless": True}),
        ("WEBP", "RGBA", {"exif": b"Exif\0\0" + bytes(100)}),
        ("BMP", "RGB", {}),
        ("BMP", "P", {}),
        ("BMP", "1", {}),
    ],
)
def test_format_and_size_are_read(form: str, mode: str, how: dict[str, object]) -> None:
    header = inspect(saved(form, mode, **how))
    assert (header.format, header.width, header.height) == (form, 140, 90)
    assert header.scans == 1
    assert header.decode_bytes <= 7 * 140 * 90 + len(saved(form, mode, **how))


@pytest.mark.parametrize("subsampling", [0, 2])
def test_scans_of_a_progressive_jpeg_are_counted(subsampling: int) -> None:
    plain = saved("JPEG", progressive=False, subsampling=subsampling)
    header = inspect(saved("JPEG", progressive=True, subsampling=subsampling))
    assert header.scans == 10
    assert header.work == 10 * 140 * 90
    samples = 3 if subsampling == 0 else 1.5
    assert header.decode_bytes == inspect(plain).decode_bytes + 2 * samples * 140 * 90


def test_usual_progressive_pictures_of_the_largest_size_are_accepted() -> None:
    for subsampling in (0, 1, 2):
        assert inspect(with_scans(12, 8160, 6144, subsampling)).scans == 12


@pytest.mark.parametrize("scans", [20, 300, 20_000])
def test_too_many_scans_for_the_size_are_refused(scans: int) -> None:
    with pytest.raises(InvalidInput, match=r"images\[3\].data.*scans.*baseline"):
        inspect(with_scans(scans, 8160, 6144))


def test_an_animation_has_the_size_of_its_canvas() -> None:
    file = io.BytesIO()
    first, second = Image.fromarray(scene()), Image.fromarray(255 - scene())
    first.save(file, "WEBP", save_all=True, append_images=[second] * 200, lossless=True)
    header = inspect(file.getvalue())
    assert (header.width, header.height) == (140, 90)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (png_header(60_000, 60_000), "MAGFACE_IMAGE_MAX_PIXELS|cut short"),
        (png_header(7_000, 7_000), "cut short"),
        (bmp_header(7_000, 7_000), "cut short"),
        (bmp_header(2**31 - 1, 2**31 - 1), "cut short"),
        (with_chunks(b"tEXt", b"a\0b", 100_000), "more than 20000 chunks"),
        (b"\xff\xd8" + b"\xff\xfe\x00\x02" * 100_000, "segments"),
        (with_scans(10, 65_500, 65_500), "MAGFACE_IMAGE_MAX_PIXELS"),
        (b"RIFF\xff\xff\x00\x00WEBPVP8 ", "cut short"),
        (encode(scene(), ".bmp")[:30] + b"\x01" + encode(scene(), ".bmp")[31:], "run-length"),
    ],
)
def test_claims_are_refused_at_once_and_without_memory(data: bytes, why: str) -> None:
    tracemalloc.start()
    began = time.process_time()
    with pytest.raises(InvalidInput, match=why):
        inspect(data)
    assert time.process_time() - began < 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20


@pytest.mark.parametrize("size", [(8160, 6144), (8192, 6144), (8272, 6200)])
def test_fifty_megapixel_cameras_are_accepted_by_default(size: tuple[int, int]) -> None:
    assert inspect(with_scans(10, *size)).pixels == size[0] * size[1]


def test_the_limits_are_named_with_their_settings() -> None:
    data = encode(scene(120, 150), ".bmp")
    with pytest.raises(InvalidInput, match=r"18000 pixels; at most 17850.*_MAX_PIXELS"):
        inspect(data, ImageLimits(image_max_pixels=150 * 119))
    with pytest.raises(InvalidInput, match=f"{len(data)} bytes; at most 2048.*IMAGE_MAX_BYTES"):
        inspect(data, ImageLimits(image_max_bytes=2048))
    exact = ImageLimits(image_max_pixels=150 * 120, image_max_bytes=len(data))
    assert inspect(data, exact).pixels == 150 * 120


def test_ten_megabytes_of_anything_are_inspected_quickly() -> None:
    noise = np.random.default_rng(0).bytes(10 * 2**20)
    starts = [with_scans(11, 140, 90), encode(scene()), b"RIFF\0\0\xa0\0WEBP", b"BM" + bytes(8)]
    starts += [b"<html>", b"data:", b"", b"\xff\xd8\xff\xe0", saved("AVIF")]
    fillers = [noise, b"\xff" * len(noise), b"\xff\x00" * (len(noise) // 2), b"A" * len(noise)]
    for start in starts:
        for filler in fillers:
            began = time.process_time()
            with contextlib.suppress(InvalidInput):
                inspect(start + filler)
            assert time.process_time() - began < 0.5
