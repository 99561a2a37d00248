from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.rendering.bundled_crops import render_golden_crops
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.align import ARCFACE_TEMPLATE, align_face
from shared.model.image.detection.choice import choose_face
from shared.model.image.detection.detector import FaceDetector
from shared.model.image.detection.yunet import find_detector_model
from shared.model.image.face import FaceImage, Faces
from tests.shared.model.pictures import LIMITS, scene
from tests.support.details import raises_with_details


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    path = find_detector_model(LIMITS)
    assert path is not None
    return FaceDetector(path)


def landmarks(detector: FaceDetector, image: np.ndarray) -> np.ndarray:
    """The landmarks of the most prominent face, (5, 2)."""
    return np.array(detector.find(image).certain[0].landmarks)


def on_wall(crop: np.ndarray, scale: float = 1.0, x: int = 80, y: int = 60) -> np.ndarray:
    """A grey image of 320x260 with a crop in it."""
    wall = np.full((260, 320, 3), 128, dtype=np.uint8)
    small = cv2.resize(crop, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    wall[y : y + small.shape[0], x : x + small.shape[1]] = small
    return wall


def test_landmarks_lie_where_the_face_is(detector: FaceDetector) -> None:
    for crop in render_golden_crops(5):
        found = landmarks(detector, on_wall(crop, x=80, y=60)) - np.array([80, 60])
        assert np.linalg.norm(found - ARCFACE_TEMPLATE, axis=1).mean() < 8


def test_the_largest_face_is_taken(detector: FaceDetector) -> None:
    small, large, _ = render_golden_crops(3)
    wall = on_wall(large, x=150, y=90)
    wall[10:76, 10:76] = cv2.resize(small, (66, 66), interpolation=cv2.INTER_AREA)
    assert (landmarks(detector, wall).mean(axis=0) > [150, 90]).all()


def test_a_huge_photograph_gives_coordinates_of_its_own_size(detector: FaceDetector) -> None:
    wall = on_wall(render_golden_crops(1)[0])
    # 640 pixels, the input size of the detector, and four times that.
    fitting, huge = (
        np.asarray(cv2.resize(wall, None, fx=n, fy=n, interpolation=cv2.INTER_CUBIC), np.uint8)
        for n in (2, 8)
    )
    found = landmarks(detector, huge) / 4
    assert np.abs(found - landmarks(detector, fitting)).max() < 1


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (64, 64)])
def test_no_face_is_refused_whatever_the_size(
    detector: FaceDetector, size: tuple[int, int]
) -> None:
    faces = detector.find(scene(*size))
    assert faces == Faces((), ())
    with pytest.raises(InvalidInput, match=r"images\[0\]\.data: shows no face"):
        choose_face(faces, FaceImage(b""), "images[0]")


def test_a_file_that_is_no_model_is_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a network")
    with raises_with_details(PreconditionFailed, match=r"model\.onnx"):
        FaceDetector(path)


def test_a_model_named_in_the_settings_wins(tmp_path: Path) -> None:
    path = tmp_path / "yunet.onnx"
    path.write_bytes(b"")
    limits = LIMITS.model_copy(update={"detector_model": path})
    assert find_detector_model(limits) == path


@pytest.mark.material
@pytest.mark.parametrize("bundled", [True, False])
def test_photographs_align_as_their_published_crops(material: Path, bundled: bool) -> None:
    model = material / "models" / "face_detection_yunet_2026may.onnx"
    path = find_detector_model(LIMITS) if bundled else model
    assert path is not None
    detector = FaceDetector(path)
    alike = []
    for photograph in sorted((material / "faces" / "raw").glob("*.jpg")):
        name = photograph.stem.rsplit("_", 1)[0]
        published = cv2.imread(str(material / "faces" / "lfw" / name / photograph.name))
        image = np.asarray(cv2.imread(str(photograph)), dtype=np.uint8)
        crop = align_face(image, landmarks(detector, image))
        middle = np.s_[16:96, 16:96]
        alike.append(np.corrcoef(crop[middle].ravel(), published[middle].ravel())[0, 1])
    assert len(alike) == 60
    assert np.median(alike) > 0.99
    assert min(alike) > 0.8
