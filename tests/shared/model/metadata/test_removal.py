"""Metadata is removed from pictures of every format; pixels and orientation stay."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from shared.model.image.decode import decode_image
from shared.model.image.metadata.removal import strip_metadata
from shared.settings import ImageLimits

_LIMITS = ImageLimits()
_PICTURES = Path(__file__).parents[1] / "fixtures" / "pictures"
_FORMATS: dict[str, tuple[str, dict[str, Any]]] = {
    "jpeg": ("JPEG", {}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "png": ("PNG", {}),
    "palette": ("PNG", {}),
    "webp": ("WEBP", {}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "bmp": ("BMP", {}),
    "avif": ("AVIF", {}),
}
_SECRET = b"SECRET"
_PLACE = (52.0, 31.0, 12.3456)


def _picture() -> Image.Image:
    blocks = np.random.default_rng(0).integers(0, 255, (15, 20, 3), np.uint8)
    return Image.fromarray(np.kron(blocks, np.ones((8, 8, 1), np.uint8)))


def _with_metadata(name: str, orientation: int = 1) -> bytes:
    """Encode a picture with a maker, a place, a profile, comments and trailing bytes."""
    form, options = _FORMATS[name]
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = _SECRET.decode()
    exif.get_ifd(0x8825)[2] = _PLACE
    if form != "BMP":
        options = options | {"exif": exif}
    if form in ("JPEG", "PNG", "WEBP"):
        options = options | {"icc_profile": _SECRET * 50}
    if form in ("JPEG", "WEBP", "AVIF"):
        options = options | {"xmp": b"<x>" + _SECRET + b"</x>"}
    if form == "JPEG":
        options = options | {"comment": _SECRET}
    picture = _picture().convert("P") if name == "palette" else _picture()
    file = io.BytesIO()
    picture.save(file, form, **options)
    return file.getvalue() + _trailing(form)


def _trailing(form: str) -> bytes:
    if form == "AVIF":
        return (8 + len(_SECRET)).to_bytes(4, "big") + b"uuid" + _SECRET
    # As phones append a video.
    return _SECRET + b"\xff\xd8\xff\xe1" + _SECRET


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", _FORMATS)
def test_pixels_and_orientation_stay_and_nothing_else(name: str, orientation: int) -> None:
    sent = _with_metadata(name, orientation)
    stripped = strip_metadata(sent)
    assert _SECRET not in stripped
    assert struct.pack("<II", 123456, 10000) not in stripped
    assert np.array_equal(decode_image(sent, _LIMITS), decode_image(stripped, _LIMITS))
    with Image.open(io.BytesIO(stripped)) as read:
        read.load()
        assert set(read.getexif()) <= {0x0112}


@pytest.mark.parametrize("name", _FORMATS)
def test_stripping_again_changes_nothing(name: str) -> None:
    stripped = strip_metadata(_with_metadata(name, 6))
    assert strip_metadata(stripped) is stripped


@pytest.mark.parametrize("name", ["jpeg", "png", "webp", "bmp"])
def test_a_picture_without_metadata_stays_the_same_bytes(name: str) -> None:
    file = io.BytesIO()
    _picture().save(file, _FORMATS[name][0])
    assert strip_metadata(file.getvalue()) is file.getvalue() or (
        strip_metadata(file.getvalue()) == file.getvalue()
    )


@pytest.mark.parametrize("path", sorted(_PICTURES.glob("*.heic")), ids=lambda path: path.name)
def test_heic_of_a_phone_keeps_its_pixels_and_orientation(path: Path) -> None:
    sent = path.read_bytes()
    trailing = (8 + len(_SECRET)).to_bytes(4, "big") + b"free" + _SECRET
    stripped = strip_metadata(sent + trailing)
    assert _SECRET not in stripped
    assert b"Exif\x00\x00MM" not in stripped
    assert np.array_equal(decode_image(sent, _LIMITS), decode_image(stripped, _LIMITS))
    assert strip_metadata(stripped) is stripped


def test_the_previews_of_a_jpeg_are_removed() -> None:
    file = io.BytesIO()
    _picture().save(file, "JPEG")
    plain = file.getvalue()
    preview = b"JFXX\x00\x10" + _SECRET
    segment = b"\xff\xe0" + (2 + len(preview)).to_bytes(2, "big") + preview
    adobe = b"Adobe\x00\x64\x00\x00\x00\x00\x01" + _SECRET
    coloured = b"\xff\xee" + (2 + len(adobe)).to_bytes(2, "big") + adobe
    stripped = strip_metadata(plain[:2] + plain[2:20] + segment + coloured + plain[20:])
    assert _SECRET not in stripped
    assert np.array_equal(decode_image(plain, _LIMITS), decode_image(stripped, _LIMITS))


def test_the_first_frame_of_an_animation_stays_in_its_place() -> None:
    frames = [_picture(), Image.new("RGB", (160, 120), (1, 2, 3))]
    file = io.BytesIO()
    frames[0].save(file, "WEBP", save_all=True, append_images=frames[1:], xmp=_SECRET)
    stripped = strip_metadata(file.getvalue())
    assert _SECRET not in stripped
    assert np.array_equal(decode_image(file.getvalue(), _LIMITS), decode_image(stripped, _LIMITS))
