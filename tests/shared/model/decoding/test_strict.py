"""Damage is refused in every format and colour space, and orientation never goes through EXIF."""

import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from shared.errors import InvalidInput
from shared.model.image.decode import decode_image
from shared.model.image.decoding import png
from shared.model.image.decoding.heif import read_heif_boxes
from shared.model.image.decoding.orientation import find_orientation
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from tests.shared.model.pictures import LIMITS, encode, scene
from tests.shared.model.test_preprocess import TURNS
from tests.support.referents import kept_by

FIXTURES = Path(__file__).parents[1] / "fixtures" / "pictures"


def decode(data: bytes) -> NDArray[np.uint8]:
    return decode_image(data, LIMITS, "images[3].data")


def refusal(data: bytes) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        decode(data)
    assert caught.value.field == "images[3].data"
    return caught.value


def noisy(mode: str = "RGB") -> Image.Image:
    """A picture whose compressed data is some ten thousand bytes long."""
    grain = np.random.default_rng(0).integers(-40, 40, (180, 240, 3))
    pixels = np.clip(scene(180, 240).astype(int) + grain, 0, 255).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(picture: Image.Image, form: str, **how: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, form, **how)
    return file.getvalue()


def exif_block(orientation: int = 6, order: str = ">", kind: int = 3, before: bytes = b"") -> bytes:
    """A TIFF block with the orientation behind some raw entries of 12 bytes."""
    value = struct.pack(f"{order}H2x" if kind == 3 else f"{order}I", orientation)
    entry = struct.pack(f"{order}HHI", 0x0112, kind, 1) + value
    count = len(before) // 12 + 1
    start = (b"MM" if order == ">" else b"II") + struct.pack(f"{order}HI", 42, 8)
    return start + struct.pack(f"{order}H", count) + before + entry + bytes(4)


JPEGS = {
    "colour": saved(noisy(), "JPEG"),
    "full colour": saved(noisy(), "JPEG", subsampling=0),
    "restarts": saved(noisy(), "JPEG", restart_marker_rows=1),
    "progressive": saved(noisy(), "JPEG", progressive=True),
    "grey": saved(noisy("L"), "JPEG"),
    "grey, progressive": saved(noisy("L"), "JPEG", progressive=True),
    "cmyk": saved(noisy("CMYK"), "JPEG"),
    "with exif": saved(noisy(), "JPEG", exif=b"Exif\0\0" + exif_block(1)),
    "grey with exif": saved(noisy("L"), "JPEG", exif=b"Exif\0\0" + exif_block(1)),
    "rgb": saved(noisy(), "JPEG", keep_rgb=True),
}


@pytest.mark.parametrize("name", JPEGS)
def test_whole_jpegs_have_pillow_s_pixels(name: str) -> None:
    with Image.open(io.BytesIO(JPEGS[name])) as picture:
        assert np.array_equal(decode(JPEGS[name]), np.asarray(picture.convert("RGB"))[..., ::-1])


def without_end(data: bytes) -> bytes:
    return data[:-2]


def short_by_2000(data: bytes) -> bytes:
    return data[:-2000]


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def half_with_end(data: bytes) -> bytes:
    return data[: len(data) // 2] + b"\xff\xd9"


def zeros_inside(data: bytes) -> bytes:
    middle = len(data) * 2 // 3
    return data[:middle] + bytes(1024) + data[middle + 1024 :]


def noise_inside(data: bytes) -> bytes:
    middle = len(data) * 2 // 3
    return data[:middle] + random.Random(0).randbytes(1024) + data[middle + 1024 :]


def hole_inside(data: bytes) -> bytes:
    middle = len(data) * 2 // 3
    return data[:middle] + data[middle + 1024 :]


DAMAGE: list[Callable[[bytes], bytes]] = [short_by_2000, half, zeros_inside, noise_inside]


@pytest.mark.parametrize("damage", [*DAMAGE, without_end, half_with_end, hole_inside])
@pytest.mark.parametrize("name", JPEGS)
def test_damaged_jpegs_are_refused(name: str, damage: Callable[[bytes], bytes]) -> None:
    if damage is zeros_inside and "progressive" in name:
        pytest.skip("zeros are valid codes in the later scans of a progressive JPEG")
    assert "cut short" in (reason := refusal(damage(JPEGS[name])).reason) or "damaged" in reason


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_pngs_are_refused(damage: Callable[[bytes], bytes]) -> None:
    assert "cut short" in (reason := refusal(damage(encode(scene()))).reason) or "damaged" in reason


@pytest.mark.parametrize("form", ["WEBP", "BMP", "AVIF"])
@pytest.mark.parametrize("damage", [short_by_2000, half])
def test_other_formats_cut_short_are_named_so(form: str, damage: Callable[[bytes], bytes]) -> None:
    assert "cut short" in refusal(damage(saved(noisy(), form))).reason


@pytest.mark.parametrize("form", ["WEBP", "AVIF"])
def test_parts_overwritten_with_zeros_are_told_without_checksums(form: str) -> None:
    assert "zeros" in refusal(zeros_inside(saved(noisy(), form))).reason


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data + b"trailing bytes of a phone" * 100,
        lambda data: data[:-2] + bytes(200) + data[-2:],
        lambda data: data[:-2] + b"\xff" * 200 + data[-2:],
        lambda data: data[:-2] + b"\x12" + data[-2:],
        lambda data: data.replace(b"JFIF\0\x01\x01", b"JFIF\0\x07\x09"),
        lambda data: data[:2] + b"\xff\xe2\0\x0eICC_PROFILE\0" + data[2:],
        lambda data: data[:20] + b"\xff\xff\xff" + data[20:],
    ],
    ids=["trailer", "zeros", "fill", "byte", "version", "profile", "fill between segments"],
)
@pytest.mark.parametrize("name", ["colour", "grey", "progressive"])
def test_harmless_oddities_of_cameras_are_accepted(
    name: str, change: Callable[[bytes], bytes]
) -> None:
    assert np.array_equal(decode(change(JPEGS[name])), decode(JPEGS[name]))


def test_damage_behind_a_harmless_oddity_is_refused() -> None:
    odd = JPEGS["colour"].replace(b"JFIF\0\x01\x01", b"JFIF\0\x07\x09")
    assert "damaged" in refusal(noise_inside(odd)).reason


def test_short_pixel_data_of_a_bmp_is_refused() -> None:
    data = encode(scene(), ".bmp")
    assert "cut short" in refusal(data[:-100]).reason


ODD_NEIGHBOURS = {
    "resolution as text": struct.pack(">HHI4s", 0x011A, 2, 3, b"72\0\0"),
    "rational beyond the block": struct.pack(">HHII", 0x011A, 5, 1, 0xFFFFFFF0),
    "rational that is signed": struct.pack(">HHIi", 0x011A, 10, 1, -1),
    "huge count": struct.pack(">HHII", 0x010F, 2, 0xFFFFFFFF, 8),
    "unknown type": struct.pack(">HHII", 0x0110, 99, 1, 0),
    "type zero": struct.pack(">HHII", 0, 0, 0, 0),
    "directory that is itself": struct.pack(">HHII", 0x8769, 4, 1, 8),
    "gps that is itself": struct.pack(">HHII", 0x8825, 4, 1, 8),
    "double": struct.pack(">HHII", 0x0111, 12, 5, 0xFFFF),
}


def holding(form: str, mode: str, block: bytes) -> tuple[bytes, bool]:
    """A file that holds an EXIF block, written without a reader of it; and if it is lossless."""
    picture = Image.fromarray(scene()[..., ::-1]).convert(mode)
    if form == "JPEG":
        data = saved(picture, "JPEG", quality=98, subsampling=0)
        body = b"Exif\0\0" + block
        return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:], False
    if form == "PNG":
        data = saved(picture, "PNG")
        checksum = struct.pack(">I", zlib.crc32(b"eXIf" + block))
        chunk = struct.pack(">I", len(block)) + b"eXIf" + block + checksum
        return data[:33] + chunk + data[33:], True
    return saved(picture, "WEBP", lossless=True, exif=block), True


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "L", "P", "1", "LA", "RGBA", "I;16")),
        ("WEBP", "RGB"),
    ],
)
def test_every_orientation_on_every_path(form: str, mode: str, orientation: int) -> None:
    upright, _ = holding(form, mode, exif_block(1))
    turned, _ = holding(form, mode, exif_block(orientation))
    expected = TURNS[orientation](decode(upright))
    assert np.array_equal(decode(turned), expected)
    assert decode(turned).flags.c_contiguous


def test_sixteen_bit_colour_is_turned() -> None:
    data = encode(scene().astype(np.uint16) * 256)
    block = exif_block(8)
    checksum = struct.pack(">I", zlib.crc32(b"eXIf" + block))
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + checksum
    assert np.array_equal(decode(data[:33] + chunk + data[33:]), np.rot90(scene()))


@pytest.mark.parametrize("neighbour", ODD_NEIGHBOURS)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_odd_neighbour_tags_neither_lose_it_nor_raise(form: str, neighbour: str) -> None:
    data, _ = holding(form, "RGB", exif_block(6, before=ODD_NEIGHBOURS[neighbour]))
    assert decode(data).shape == (140, 90, 3)


@pytest.mark.parametrize("order", [">", "<"])
@pytest.mark.parametrize("kind", [3, 4])
def test_both_byte_orders_and_integer_types(order: str, kind: int) -> None:
    assert find_orientation(exif_block(7, order, kind), None) == 7


@pytest.mark.parametrize("value", [0, 9, 77, 65535])
def test_values_that_make_no_sense_are_ignored(value: int) -> None:
    assert find_orientation(exif_block(value), None) == 1


def test_the_reader_of_orientations_takes_any_bytes() -> None:
    chance = random.Random(0)
    whole = exif_block(6, before=b"".join(ODD_NEIGHBOURS.values()))
    for _ in range(3000):
        block = bytearray(whole[: chance.randrange(len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            if block:
                block[chance.randrange(len(block))] = chance.randrange(256)
        assert 1 <= find_orientation(bytes(block), bytes(block)) <= 8


@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_xmp_is_honoured_without_exif(form: str) -> None:
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = saved(Image.fromarray(scene()), form, xmp=xmp)
    with Image.open(io.BytesIO(data)) as picture:
        assert ImageOps.exif_transpose(picture).size == (90, 140)
    assert decode(data).shape == (140, 90, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avifs_are_turned_by_their_boxes(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(Image.fromarray(scene()[..., ::-1]), "AVIF", quality=95, exif=exif.tobytes())
    seen, expected = decode(data).astype(int), TURNS[orientation](scene())
    assert seen.shape == expected.shape
    assert np.abs(seen - expected).mean() < 6


def with_transforms(heic: bytes, turn: int, mirror: int | None) -> bytes:
    """Replace the rotation of a HEIC that has one, and put a mirror behind it."""
    boxes = bytearray(heic)
    at = boxes.index(b"irot") + 4
    boxes[at] = turn
    if mirror is None:
        return bytes(boxes)
    # The list of properties and what contains it grow by 9 bytes, their assignment by one.
    uses = boxes.index(b"ipma")
    for kind, growth in ((b"meta", 10), (b"iprp", 10), (b"ipco", 9), (b"ipma", 1)):
        grow(boxes, boxes.index(kind) - 4, growth)
    for kind in (1, 2):
        place = boxes.index(struct.pack(">HHH", kind, 0, 0), boxes.index(b"iloc"))
        grow(boxes, place + 4, 10)
    boxes[uses + 14] += 1
    boxes.insert(uses + 20, 0x86)
    boxes[at + 1 : at + 1] = struct.pack(">I4sB", 9, b"imir", mirror)
    return bytes(boxes)


def grow(data: bytearray, at: int, growth: int) -> None:
    (number,) = struct.unpack_from(">I", data, at)
    struct.pack_into(">I", data, at, number + growth)


@pytest.mark.parametrize(
    ("turn", "mirror", "orientation"),
    [
        *((0, None, 1), (1, None, 8), (2, None, 3), (3, None, 6)),
        *((0, 0, 4), (1, 0, 5), (2, 0, 2), (3, 0, 7)),
        *((0, 1, 2), (1, 1, 7), (2, 1, 4), (3, 1, 5)),
    ],
)
def test_heics_are_turned_by_their_boxes(turn: int, mirror: int | None, orientation: int) -> None:
    # Written by pillow-heif, whose encoder is no dependency.
    heic = with_transforms((FIXTURES / "scene_orientation_6.heic").read_bytes(), turn, mirror)
    assert read_heif_boxes(heic, "HEIC").orientation == orientation
    seen, expected = decode(heic).astype(int), TURNS[orientation](scene())
    assert seen.shape == expected.shape
    assert np.abs(seen - expected).mean() < 6


def test_heics_of_ten_bits_are_decoded() -> None:
    seen = decode((FIXTURES / "scene_10_bit.heic").read_bytes()).astype(int)
    assert seen.shape == scene().shape
    assert np.abs(seen - scene()).mean() < 2


@pytest.mark.parametrize("name", ["scene_orientation_1.heic", "scene_10_bit.heic"])
def test_heics_that_hold_more_than_they_declare_are_refused_before_decoding(name: str) -> None:
    heic = bytearray((FIXTURES / name).read_bytes())
    struct.pack_into(">II", heic, heic.index(b"ispe") + 8, 16, 16)
    assert "exceeds the maximum image size" in refusal(bytes(heic)).reason


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
@pytest.mark.parametrize("size", [(280, 180), (3000, 2000)])
def test_avifs_that_hold_more_than_they_declare_are_refused_before_decoding(
    mode: str, size: tuple[int, int]
) -> None:
    avif = bytearray(saved(Image.new(mode, size), "AVIF", speed=10))
    struct.pack_into(">II", avif, avif.index(b"ispe") + 8, 112, 112)
    reason = refusal(bytes(avif)).reason
    assert f"declares 112x112 pixels, but holds {size[0]}x{size[1]}" in reason


@pytest.mark.parametrize("length", [40, 300, 800, -100, -1])
def test_heics_cut_short_are_refused(length: int) -> None:
    data = (FIXTURES / "scene_orientation_1.heic").read_bytes()
    assert "HEIC" in refusal(data[:length]).reason


@pytest.mark.parametrize(
    "name", ["cut png", "wide crop", "bad landmarks", "no face", "damaged jpeg"]
)
def test_a_kept_error_keeps_no_pixels(name: str) -> None:
    def fail() -> InvalidInput:
        reader, picture = FaceReader(LIMITS), encode(scene(200, 300))
        face = {
            "cut png": FaceImage(noise_inside(picture), "aligned"),
            "wide crop": FaceImage(picture, "aligned"),
            "bad landmarks": FaceImage(picture, "landmarks", ((0.0, 0.0),) * 5),
            "no face": FaceImage(picture, "detect"),
            "damaged jpeg": FaceImage(noise_inside(JPEGS["grey"]), "aligned"),
        }[name]
        try:
            reader.read(face, "image")
        except InvalidInput as error:
            assert error.__cause__ is None
            assert error.__context__ is None
            # The frame of the test itself holds the reader.
            return error.with_traceback(
                error.__traceback__.tb_next if error.__traceback__ else None
            )
        raise AssertionError

    assert not [one for one in kept_by(fail()) if isinstance(one, (np.ndarray, Image.Image))]


RAISED = [
    *(MemoryError(), RecursionError("deep"), SystemError("x"), zlib.error("x"), cv2.error("x")),
    *(struct.error("x"), Image.DecompressionBombError("x"), UserWarning("x"), KeyError("x")),
    *(OSError("x"), AssertionError("x"), StopIteration(), EOFError()),
]


@pytest.mark.parametrize("raised", RAISED, ids=lambda raised: type(raised).__name__)
@pytest.mark.parametrize("work", ["read", "check", "check for detection", "detect", "plain"])
def test_whatever_a_decoder_raises_is_the_picture_s_own_error(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, work: str
) -> None:
    def fail(*_: object) -> None:
        raise raised

    monkeypatch.setattr(png, "decode_with_pillow", fail)
    monkeypatch.setattr("shared.model.image.face_reader.decode_plain_jpeg", fail)
    reader, face = FaceReader(LIMITS), FaceImage(encode(scene()), "aligned")
    with pytest.raises(InvalidInput) as caught:
        match work:
            case "read":
                reader.read(face, "images[3]")
            case "check":
                reader.check(face, "images[3]")
            case "check for detection":
                reader.check(FaceImage(face.data, "detect"), "images[3]")
            case "detect":
                reader.detect(face.data, "images[3]")
            case "plain":
                reader.read_plain_jpeg(face, 10**6, "images[3]")
    assert caught.value.field == "images[3].data"
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None


def test_mutated_files_of_every_format_give_a_picture_or_a_refusal() -> None:
    chance = random.Random(1)
    small = Image.fromarray(scene(24, 32))
    wholes = [saved(small, form) for form in ("JPEG", "PNG", "WEBP", "BMP", "AVIF")]
    wholes += [saved(small, "JPEG", progressive=True), saved(small.convert("P"), "PNG")]
    wholes += [saved(small.convert("CMYK"), "JPEG"), saved(small, "WEBP", lossless=True)]
    for number in range(3000):
        data = bytearray(wholes[number % len(wholes)])
        for _ in range(chance.randrange(1, 5)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        if chance.random() < 0.2:
            del data[chance.randrange(len(data)) :]
        try:
            assert decode(bytes(data)).dtype == np.uint8
        except InvalidInput as error:
            assert error.field == "images[3].data"
