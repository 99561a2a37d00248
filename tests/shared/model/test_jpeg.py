"""Plain JPEGs: the same pixels as with Pillow, and no file is accepted that Pillow refuses."""

import io
import random

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from shared.errors import InvalidInput
from shared.model.image.decode import decode_image
from shared.model.image.decoding.header import BadPicture
from shared.model.image.decoding.jpeg import decode_plain_jpeg
from tests.shared.model.pictures import LIMITS, encode, scene, with_orientation

MANY = 10**6
_SCAN = b"\xff\xda"
_END = b"\xff\xd9"


def by_pillow(data: bytes) -> np.ndarray | None:
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            turned = ImageOps.exif_transpose(picture)
            return np.asarray(turned.convert("RGB"))[..., ::-1]
    except Exception:
        return None


def by_us(data: bytes) -> np.ndarray | None:
    try:
        return decode_plain_jpeg(data, MANY)
    except BadPicture:
        return None


def saved(**how: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(scene()[..., ::-1]).save(file, "JPEG", **how)
    return file.getvalue()


@pytest.mark.parametrize(
    "data",
    [saved(), saved(quality=30, subsampling=2), saved(subsampling=0), saved(progressive=True)],
    ids=["default", "coarse", "full colour", "progressive"],
)
def test_pixels_are_pillow_s(data: bytes) -> None:
    ours = by_us(data)
    assert ours is not None
    assert np.array_equal(ours, by_pillow(data))


@pytest.mark.parametrize(
    "data",
    [
        encode(scene(), ".png"),
        b"",
        b"\xff\xd8\xff",
        with_orientation(scene(), 6),
        saved(xmp=b'<x:xmpmeta tiff:Orientation="6"></x:xmpmeta>'),
        cv2.imencode(".jpg", scene()[..., 0])[1].tobytes(),
    ],
    ids=["png", "nothing", "no header", "exif", "xmp", "grey"],
)
def test_anything_else_is_left_to_pillow(data: bytes) -> None:
    assert decode_plain_jpeg(data, MANY) is None


def test_a_larger_picture_is_not_decoded() -> None:
    data, pixels = saved(), scene().shape[0] * scene().shape[1]
    assert decode_plain_jpeg(data, pixels - 1) is None
    assert decode_plain_jpeg(data, pixels) is not None


def test_no_damaged_file_is_accepted_that_pillow_refuses() -> None:
    chance, seen = random.Random(0), 0
    whole = [saved(), saved(progressive=True), saved(subsampling=0)]
    for _ in range(1500):
        data = bytearray(chance.choice(whole))
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        ours = by_us(bytes(data))
        if ours is not None:
            theirs = by_pillow(bytes(data))
            assert theirs is not None
            assert np.array_equal(ours, theirs)
            seen += 1
    assert 0 < seen < 1500


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_file_cut_short_is_refused_even_with_its_end_put_back(share: float) -> None:
    data = saved()
    pixels = data.index(_SCAN)
    cut = data[: pixels + int(share * (len(data) - pixels))] + _END
    assert by_pillow(cut) is not None, "Pillow does not tell"
    with pytest.raises(InvalidInput, match=r"images\[0\].data.*truncated"):
        decode_image(cut, LIMITS, "images[0].data")
