import concurrent.futures
from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.rendering.bundled_crops import render_golden_crops
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.align import ARCFACE_TEMPLATE
from shared.model.image.detection import yunet
from shared.model.image.face import Alignment, FaceImage
from shared.model.image.face_reader import FaceReader
from tests.shared.model.pictures import LIMITS, encode, scene
from tests.support.details import raises_with_details

TEMPLATE = tuple((float(x), float(y)) for x, y in ARCFACE_TEMPLATE)


@pytest.fixture(scope="module")
def reader() -> FaceReader:
    return FaceReader(LIMITS)


def refusal(reader: FaceReader, face: FaceImage) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        reader.crop(face, "images[3]")
    return caught.value


@pytest.mark.parametrize("alignment", ["unspecified", "aligned"])
def test_a_crop_of_112_is_taken_as_it_is(reader: FaceReader, alignment: Alignment) -> None:
    face = FaceImage(encode(scene(112, 112)), alignment)
    assert np.array_equal(reader.crop(face), scene(112, 112))


def test_larger_aligned_crops_are_averaged_down(reader: FaceReader) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (448, 448, 3), dtype=np.uint8)
    crop = reader.crop(FaceImage(encode(noise), "aligned"))
    assert crop.shape == (112, 112, 3)
    means = noise.reshape(112, 4, 112, 4, 3).mean(axis=(1, 3))
    assert np.abs(crop - means).max() <= 1


def test_smaller_aligned_crops_are_enlarged(reader: FaceReader) -> None:
    assert reader.crop(FaceImage(encode(scene(50, 50)), "aligned")).shape == (112, 112, 3)


def test_aligned_crops_must_be_square(reader: FaceReader) -> None:
    error = refusal(reader, FaceImage(encode(scene(112, 113)), "aligned"))
    assert error.field == "images[3].data"
    assert "113x112" in error.reason


def test_unspecified_without_landmarks_says_what_to_set(reader: FaceReader) -> None:
    error = refusal(reader, FaceImage(encode(scene(113, 113))))
    assert error.field == "images[3].alignment"
    assert "landmarks" in error.reason


@pytest.mark.parametrize("alignment", ["unspecified", "landmarks"])
def test_landmarks_are_used_where_given(reader: FaceReader, alignment: Alignment) -> None:
    padded = cv2.copyMakeBorder(scene(112, 112), 40, 40, 60, 60, cv2.BORDER_CONSTANT)
    landmarks = tuple((x + 60, y + 40) for x, y in TEMPLATE)
    crop = reader.crop(FaceImage(encode(np.asarray(padded, np.uint8)), alignment, landmarks))
    assert np.abs(crop.astype(int) - scene(112, 112)).max() <= 1


@pytest.mark.parametrize("count", [0, 1, 4, 6])
def test_landmarks_must_be_five(reader: FaceReader, count: int) -> None:
    landmarks = (TEMPLATE * 2)[:count]
    error = refusal(reader, FaceImage(encode(scene()), "landmarks", landmarks))
    assert error.field == "images[3].landmarks"
    assert f"has {count} points" in error.reason


@pytest.mark.parametrize("alignment", ["aligned", "detect"])
def test_landmarks_that_would_be_ignored_are_refused(
    reader: FaceReader, alignment: Alignment
) -> None:
    error = refusal(reader, FaceImage(encode(scene(112, 112)), alignment, TEMPLATE))
    assert error.field == "images[3].landmarks"


def test_the_field_of_bad_data_is_named(reader: FaceReader) -> None:
    assert refusal(reader, FaceImage(b"")).field == "images[3].data"


def test_a_picture_without_a_face_is_refused(reader: FaceReader) -> None:
    error = refusal(reader, FaceImage(encode(scene(200, 200)), "detect"))
    assert error.field == "images[3].data"
    assert "no face" in error.reason


def test_without_a_detector_only_detection_fails_and_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(yunet, "find_spec", lambda _name: None)
    reader = FaceReader(LIMITS)
    assert reader.crop(FaceImage(encode(scene(112, 112)))).shape == (112, 112, 3)
    with pytest.raises(PreconditionFailed, match=r"\[detect\].*MAGFACE_DETECTOR_MODEL"):
        reader.crop(FaceImage(encode(scene()), "detect"))


def test_a_detector_setting_that_names_no_file_is_told_at_once(tmp_path: Path) -> None:
    limits = LIMITS.model_copy(update={"detector_model": tmp_path / "absent.onnx"})
    with raises_with_details(PreconditionFailed, match=r"absent\.onnx"):
        FaceReader(limits)


def test_threads_get_what_one_thread_gets(reader: FaceReader) -> None:
    padded = [
        np.asarray(cv2.copyMakeBorder(crop, 30 + n, 60, 40, 50, cv2.BORDER_REPLICATE), np.uint8)
        for n, crop in enumerate(render_golden_crops(6))
    ]
    faces = [FaceImage(encode(picture), "detect") for picture in padded]
    faces += [FaceImage(encode(crop, ".jpg")) for crop in render_golden_crops(4)]
    alone = [reader.crop(face) for face in faces]
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        together = list(threads.map(reader.crop, faces * 8))
    assert all(
        np.array_equal(seen, alone[place % len(faces)]) for place, seen in enumerate(together)
    )


@pytest.mark.parametrize("limit", ["image_max_pixels", "image_max_bytes"])
def test_what_is_above_a_limit_is_not_read_at_once_either(limit: str) -> None:
    data = encode(scene(112, 150), ".jpg")
    face = FaceImage(data, "landmarks", TEMPLATE)
    assert FaceReader(LIMITS).read_plain_jpeg(face, 2 * 112**2, "image") is not None
    most = {"image_max_pixels": 112 * 150 - 1, "image_max_bytes": len(data) - 1}[limit]
    assert most >= {"image_max_pixels": 112 * 112, "image_max_bytes": 1024}[limit]
    strict = FaceReader(LIMITS.model_copy(update={limit: most}))
    assert strict.read_plain_jpeg(face, 2 * 112**2, "image") is None
    with pytest.raises(InvalidInput):
        strict.crop(face)
