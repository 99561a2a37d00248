"""Contrast of dark and washed-out pictures."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from cli.rendering.renderer import render_person
from shared.model.image.contrast import centiles, stretch_low_contrast
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits

ORDINARY = np.stack([render_person(8_200_000 + person, 0) for person in range(12)])
ORDINARY = np.stack([face for face in ORDINARY if np.ptp(np.percentile(face, (1, 99))) > 130])
CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a fifth of the light": lambda face: face * 0.2,
    "a tenth of the light": lambda face: face * 0.1,
    "washed out": lambda face: face * 0.25 + 170,
    "grey and flat": lambda face: face * 0.2 + 90,
}


def test_ordinary_pictures_are_returned_as_they_are() -> None:
    assert len(ORDINARY) >= 5
    for face in ORDINARY:
        assert stretch_low_contrast(face) is face
        large = cv2.resize(face, (700, 500))
        assert stretch_low_contrast(large) is large


@pytest.mark.parametrize("change", CHANGES)
def test_a_picture_of_low_contrast_gets_that_of_an_ordinary_one(change: str) -> None:
    for face in ORDINARY:
        low = CHANGES[change](face).astype(np.uint8)
        before = low.copy()
        stretched = stretch_low_contrast(low)
        assert (low == before).all()
        darkest, brightest = np.percentile(stretched, (1, 99))
        assert darkest <= 30
        assert brightest >= 210
        # Lost shades cannot come back; the order of brightness stays.
        likeness = np.corrcoef(stretched.ravel(), face.ravel())[0, 1]
        assert likeness > 0.95


def test_pictures_without_structure_stay_finite() -> None:
    for value in (0, 7, 255):
        flat = np.full((112, 112, 3), value, np.uint8)
        assert np.ptp(stretch_low_contrast(flat)) == 0
    for shape in ((1, 1, 3), (1, 500, 3), (13, 9, 3)):
        assert stretch_low_contrast(np.full(shape, 9, np.uint8)).shape == shape


def test_the_reader_of_faces_stretches_every_crop() -> None:
    dark = (ORDINARY[0] * 0.2).astype(np.uint8)
    png = cv2.imencode(".png", dark)[1].tobytes()
    landmarks = ((38.3, 51.7), (73.5, 51.5), (56.0, 71.7), (41.5, 92.4), (70.7, 92.2))
    reader = FaceReader(ImageLimits())
    for face in (FaceImage(png, "aligned"), FaceImage(png, "landmarks", landmarks)):
        assert np.percentile(reader.crop(face), 99) > 200


def test_the_centiles_are_those_of_numpy() -> None:
    random = np.random.default_rng(5)
    for shape in ((1, 1, 3), (1, 7, 3), (13, 9, 3), (112, 112, 3), (301, 199, 3)):
        for low, high in ((0, 256), (90, 110), (7, 8)):
            image = random.integers(low, high, shape, np.uint8)
            assert centiles(image) == pytest.approx(np.percentile(image, (1, 99)))
            turned = np.rot90(image)
            assert centiles(turned) == pytest.approx(np.percentile(turned, (1, 99)))
