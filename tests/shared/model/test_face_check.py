"""The face check on faces, degraded faces, and crops that show none."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.rendering.renderer import render_person
from shared.errors import InvalidInput
from shared.model.default.crops import default_golden_crops, default_reference_crops
from shared.model.face_check import FaceCheck
from tests.shared.model.no_face import degraded_kinds, no_face_kinds

FACES = np.stack([render_person(8_100_000 + person, 0) for person in range(60)])
NO_FACE = no_face_kinds(FACES)
DEGRADED = degraded_kinds(FACES)
LFW = Path("../shared/faces/lfw")
# Share of a kind that may be judged wrongly.
MOST_WRONG = 0.02


@pytest.fixture(scope="module")
def check() -> FaceCheck:
    return FaceCheck()


@pytest.mark.parametrize("kind", NO_FACE)
def test_a_crop_without_a_face_is_told(check: FaceCheck, kind: str) -> None:
    assert check.shows_face(NO_FACE[kind]).mean() <= MOST_WRONG


def test_rendered_faces_are_faces(check: FaceCheck) -> None:
    assert check.shows_face(FACES).all()
    assert check.shows_face(default_golden_crops()).all()
    assert check.shows_face(default_reference_crops()[0]).mean() >= 1 - 0.004


@pytest.mark.parametrize("kind", DEGRADED)
def test_degraded_faces_are_faces(check: FaceCheck, kind: str) -> None:
    assert check.shows_face(DEGRADED[kind]).mean() >= 1 - MOST_WRONG


@pytest.mark.material
@pytest.mark.skipif(not LFW.is_dir(), reason="needs ../shared/faces/lfw")
def test_real_faces_are_faces_unless_they_are_turned(check: FaceCheck) -> None:
    faces = np.stack([cv2.imread(str(file)) for file in sorted(LFW.glob("*/*.jpg"))])
    assert check.shows_face(faces).mean() >= 1 - 0.002
    some = faces[::10]
    for kind, crops in degraded_kinds(some).items():
        assert check.shows_face(crops).mean() >= 1 - MOST_WRONG, kind
    assert check.shows_face(some[:, ::-1, ::-1]).mean() <= MOST_WRONG


def test_one_crop_is_judged_as_in_a_batch(check: FaceCheck) -> None:
    mixed = np.concatenate([FACES[:5], NO_FACE["text"], NO_FACE["one colour"]])
    one_by_one = [bool(check.shows_face(crop[None])[0]) for crop in mixed]
    assert check.shows_face(mixed).tolist() == one_by_one
    assert one_by_one[:5] == [True] * 5


def test_other_arrays_are_refused(check: FaceCheck) -> None:
    for crops in (FACES[0], FACES[:1].astype(np.float32), FACES[:0]):
        with pytest.raises(InvalidInput):
            check.shows_face(crops)
