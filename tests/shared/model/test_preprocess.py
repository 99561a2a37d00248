import contextlib
import io
import tracemalloc
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from shared.errors import InvalidInput
from shared.model.image.align import (
    ARCFACE_TEMPLATE,
    align_face,
    check_landmarks,
    similarity_transform,
)
from shared.model.image.decode import decode_image
from shared.model.sessions.base import network_input
from shared.settings import ImageLimits
from tests.shared.model.pictures import (
    LIMITS,
    bmp_header,
    encode,
    png_header,
    scene,
    with_orientation,
)


def decode(data: bytes, limits: ImageLimits = LIMITS) -> NDArray[np.uint8]:
    return decode_image(data, limits, "images[3].data")


class TestPixels:
    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
    def test_equal_opencv_s_for_every_format(self, suffix: str) -> None:
        data = encode(scene(), suffix)
        assert np.array_equal(decode(data), cv2.imdecode(np.frombuffer(data, np.uint8), 1))

    def test_come_in_bgr_order(self) -> None:
        pixels = np.zeros((8, 8, 3), dtype=np.uint8)
        pixels[..., 0] = 200
        assert decode(encode(pixels))[0, 0].tolist() == [200, 0, 0]

    def test_grey_is_spread_over_three_channels(self) -> None:
        grey = scene()[..., 0]
        assert np.array_equal(decode(encode(grey)), np.repeat(grey[..., None], 3, axis=2))

    def test_alpha_is_dropped(self) -> None:
        pixels = np.dstack([scene(), np.full(scene().shape[:2], 7, dtype=np.uint8)])
        assert np.array_equal(decode(encode(pixels)), scene())

    def test_grey_with_alpha_is_read(self) -> None:
        file = io.BytesIO()
        Image.fromarray(scene()[..., 0]).convert("LA").save(file, "PNG")
        assert np.array_equal(decode(file.getvalue())[..., 2], scene()[..., 0])

    def test_a_palette_with_transparency_is_read(self) -> None:
        pixels = np.zeros((8, 8, 3), dtype=np.uint8)
        pixels[:, 4:] = (10, 20, 250)
        file = io.BytesIO()
        picture = Image.fromarray(pixels[..., ::-1]).quantize(4)
        picture.save(file, "PNG", transparency=0)
        assert np.array_equal(decode(file.getvalue()), pixels)

    @pytest.mark.parametrize("colour", [False, True])
    def test_sixteen_bits_keep_the_high_byte(self, colour: bool) -> None:
        fine = scene().astype(np.uint16) * 256 + 255
        data = encode(fine if colour else fine[..., 1])
        expected = scene() if colour else np.repeat(scene()[..., 1:2], 3, axis=2)
        assert np.array_equal(decode(data), expected)

    def test_cmyk_is_read_as_colour(self) -> None:
        file = io.BytesIO()
        Image.fromarray(scene()[..., ::-1]).convert("CMYK").save(file, "JPEG", quality=98)
        assert np.abs(decode(file.getvalue()).astype(int) - scene()).mean() < 4

    def test_of_an_animation_the_first_picture_is_taken(self) -> None:
        file = io.BytesIO()
        first, second = Image.fromarray(scene()), Image.fromarray(255 - scene())
        first.save(file, "WEBP", save_all=True, append_images=[second], lossless=True)
        assert np.array_equal(decode(file.getvalue()), scene()[..., ::-1])


# Transformation of the stored pixels for each EXIF orientation.
TURNS: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.transpose(1, 0, 2),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_is_applied(self, orientation: int) -> None:
        seen = decode(with_orientation(scene(), orientation)).astype(int)
        expected = TURNS[orientation](scene())
        assert seen.shape == expected.shape
        assert np.abs(seen - expected).max() < 12

    def test_that_makes_no_sense_is_ignored(self) -> None:
        assert decode(with_orientation(scene(), 77)).shape == scene().shape

    @pytest.mark.filterwarnings("ignore:Corrupt EXIF")
    def test_in_a_damaged_exif_block_is_ignored(self) -> None:
        data = with_orientation(scene(), 6).replace(b"Exif\0\0MM\0*", b"Exif\0\0MM\0*\xff\xff")
        data = data.replace(b"Exif\0\0II*\0", b"Exif\0\0II*\0\xff\xff")
        assert decode(data).ndim == 3


class TestBadFiles:
    def refused(self, data: bytes, why: str, limits: ImageLimits = LIMITS) -> None:
        with pytest.raises(InvalidInput, match=why) as caught:
            decode(data, limits)
        assert caught.value.field == "images[3].data"

    def test_empty(self) -> None:
        self.refused(b"", "is empty")

    def test_text(self) -> None:
        self.refused(
            b"not a picture at all, only some text",
            r"is text, which starts with .*; send a JPEG, PNG",
        )

    def test_another_picture_format(self) -> None:
        file = io.BytesIO()
        Image.fromarray(scene()).save(file, "GIF")
        self.refused(file.getvalue(), "is a GIF picture; save it as one of JPEG, PNG")

    @pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp"])
    def test_truncated_wherever_it_is_cut(self, suffix: str) -> None:
        rng = np.random.default_rng(0)
        data = encode(rng.integers(0, 255, (24, 32, 3), dtype=np.uint8), suffix)
        for length in [*range(1, len(data) - 1, 13), *range(len(data) - 12, len(data))]:
            with pytest.raises(InvalidInput):
                decode(data[:length])

    def test_truncated_with_a_thumbnail_that_is_whole(self) -> None:
        thumbnail = encode(scene(16, 16), ".jpg")
        data = encode(scene(), ".jpg")
        segment = b"\xff\xe1" + (len(thumbnail) + 8).to_bytes(2, "big") + b"Exif\0\0" + thumbnail
        whole = data[:2] + segment + data[2:]
        assert decode(whole).shape == scene().shape
        self.refused(whole[: -len(data) // 3], "is a JPEG file that is cut short")

    def test_damaged_png_data(self) -> None:
        data = bytearray(encode(scene()))
        data[len(data) // 2] ^= 0xFF
        self.refused(bytes(data), "damaged PNG file: the checksum of a IDAT")

    @pytest.mark.parametrize("data", [png_header(0, 0), png_header(0, 5), bmp_header(0, 0)])
    def test_without_pixels(self, data: bytes) -> None:
        self.refused(data, "pixels|damaged|no JPEG")

    @pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
    @pytest.mark.parametrize(
        "data",
        [png_header(30_000, 30_000), png_header(2**31 - 1, 2**31 - 1), bmp_header(10_000, 9_000)],
    )
    def test_too_many_pixels_are_refused_before_they_are_decoded(self, data: bytes) -> None:
        tracemalloc.start()
        self.refused(data, "pixels|cut short")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2**20

    def test_the_limits_are_the_callers(self) -> None:
        data = encode(scene(120, 150), ".bmp")
        tight = ImageLimits(image_max_pixels=150 * 119)
        self.refused(data, "150x120 = 18000 pixels; at most 17850", tight)
        self.refused(data, f"{len(data)} bytes; at most 2048", ImageLimits(image_max_bytes=2048))
        exact = ImageLimits(image_max_pixels=150 * 120, image_max_bytes=len(data))
        assert decode(data, exact).shape == (120, 150, 3)

    @given(st.binary(max_size=200))
    def test_any_bytes_are_refused_and_nothing_else_is_raised(self, data: bytes) -> None:
        for start in (b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBP", b"BM"):
            with pytest.raises(InvalidInput):
                decode(start + data)

    @given(st.sampled_from([".jpg", ".png", ".webp", ".bmp"]), st.integers(0), st.integers(1, 255))
    def test_a_flipped_byte_gives_a_picture_or_a_refusal(
        self, suffix: str, place: int, change: int
    ) -> None:
        data = bytearray(encode(scene(20, 20), suffix))
        data[place % len(data)] ^= change
        with contextlib.suppress(InvalidInput):
            assert decode(bytes(data)).dtype == np.uint8


class TestAlignment:
    def test_template_landmarks_leave_a_crop_as_it_is(self) -> None:
        crop = scene(112, 112)
        assert np.abs(align_face(crop, ARCFACE_TEMPLATE).astype(int) - crop).max() <= 1

    @pytest.mark.parametrize("scale", [0.3, 0.9, 4.0, 9.0])
    def test_undoes_rotation_scale_and_shift(self, scale: float) -> None:
        turn = np.deg2rad(25)
        matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        points = (ARCFACE_TEMPLATE @ matrix.T + scale * np.array([70, 30])).astype(np.float32)
        side = round(220 * scale)
        whole = np.column_stack([matrix, scale * np.array([70, 30])])
        large = cv2.warpAffine(scene(112, 112), whole, (side, side), flags=cv2.INTER_CUBIC)
        seen = align_face(np.asarray(large, np.uint8), points).astype(int)
        inner = np.s_[12:100, 12:100]
        assert np.abs(seen[inner] - scene(112, 112)[inner]).mean() < 3

    def test_large_faces_are_averaged_and_not_sampled(self) -> None:
        stripes = np.zeros((1120, 1120, 3), dtype=np.uint8)
        stripes[:, ::2] = 255
        crop = align_face(stripes, ARCFACE_TEMPLATE * 10)
        assert crop[20:90, 20:90].std() < 12

    @given(st.floats(0.05, 20), st.floats(-3.1, 3.1), st.floats(-500, 500), st.floats(-500, 500))
    def test_transform_recovers_any_similarity(
        self, scale: float, turn: float, x: float, y: float
    ) -> None:
        linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        moved = (ARCFACE_TEMPLATE @ linear.T + [x, y]).astype(np.float32)
        found = similarity_transform(ARCFACE_TEMPLATE, moved)
        assert np.allclose(found, np.column_stack([linear, [x, y]]), atol=2e-2)

    def test_transform_is_the_least_squares_one(self) -> None:
        rng = np.random.default_rng(4)
        source = ARCFACE_TEMPLATE
        target = (source * 1.3 + rng.normal(0, 4, (5, 2))).astype(np.float32)
        # The same as a linear system in a, b, x, y.
        ones, zeros = np.ones(5), np.zeros(5)
        rows = np.concatenate(
            [
                np.column_stack([source[:, 0], -source[:, 1], ones, zeros]),
                np.column_stack([source[:, 1], source[:, 0], zeros, ones]),
            ]
        )
        a, b, x, y = np.linalg.lstsq(rows, target.T.reshape(-1), rcond=None)[0]
        expected = np.array([[a, -b, x], [b, a, y]])
        assert np.allclose(similarity_transform(source, target), expected, atol=1e-4)

    @pytest.mark.parametrize(
        ("landmarks", "why"),
        [
            (ARCFACE_TEMPLATE[:4], "has 4 points"),
            (np.zeros((0, 2)), "has 0 points"),
            (np.full((5, 2), np.nan), "not a finite number"),
            (np.where(np.eye(5, 2), np.inf, ARCFACE_TEMPLATE), "not a finite number"),
            (np.full((5, 2), 40.0), "within one pixel of a line"),
            (ARCFACE_TEMPLATE * [1, 0], "within one pixel of a line"),
            (ARCFACE_TEMPLATE + 500, "outside the 112x112 picture"),
            (ARCFACE_TEMPLATE - 500, "outside the 112x112 picture"),
        ],
    )
    def test_unusable_landmarks_are_refused(self, landmarks: NDArray[np.float32], why: str) -> None:
        with pytest.raises(InvalidInput, match=why) as caught:
            align_face(scene(112, 112), landmarks, "images[0].landmarks")
        assert caught.value.field == "images[0].landmarks"

    def test_landmarks_are_given_back_as_float32(self) -> None:
        points = check_landmarks(ARCFACE_TEMPLATE.tolist())
        assert points.dtype == np.float32
        assert np.array_equal(points, ARCFACE_TEMPLATE)


class TestNetworkInput:
    def test_bgr_and_rgb_differ_by_the_order_of_the_planes(self) -> None:
        crops = np.stack([scene(112, 112), 255 - scene(112, 112)])
        bgr, rgb = network_input(crops, "bgr"), network_input(crops, "rgb")
        assert not np.array_equal(bgr, rgb)
        assert np.array_equal(bgr, rgb[:, ::-1])

    def test_is_scaled_planes_of_float32(self) -> None:
        crops = scene(112, 112)[None]
        planes = network_input(crops, "bgr", 1 / 255)
        assert planes.shape == (1, 3, 112, 112)
        assert planes.dtype == np.float32
        assert planes.flags.c_contiguous
        assert np.allclose(planes[0, 0], crops[0, :, :, 0] / 255, atol=1e-7)


def test_damaged_jpegs_are_refused_wherever_the_damage_can_be_told() -> None:
    whole = encode(scene(), ".jpg")
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(300):
        damaged = bytearray(whole)
        for place in generator.integers(2, len(whole) - 2, 3):
            damaged[place] = generator.integers(256)
        try:
            Image.open(io.BytesIO(bytes(damaged)), formats=["JPEG"]).load()
        except Exception:
            told += 1
            with pytest.raises(InvalidInput, match="data"):
                decode(bytes(damaged))
    assert told > 20
