"""Faces that are turned, tilted, small, large, cut off or beside others are found rightly."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import InvalidInput
from shared.model.default import default_calibration
from shared.model.image.align import align_face
from shared.model.image.detection.chips import eye_distance
from shared.model.image.detection.choice import by_prominence, choose_face, require_whole_face
from shared.model.image.detection.detector import FaceDetector
from shared.model.image.detection.yunet import find_detector_model
from shared.model.image.face import Box, DetectedFace, FaceImage, Faces
from shared.model.sessions.factory import open_session
from tests.benchmarks.robustness.judgement import Judge
from tests.benchmarks.robustness.old_procedure import SinglePassDetector
from tests.benchmarks.robustness.people import Person, photographed_people, rendered_people
from tests.benchmarks.robustness.scenes import count_right_choices
from tests.benchmarks.robustness.variants import paste, tilt, variants, wall
from tests.default_version import export_default
from tests.shared.model.pictures import LIMITS

Picture = NDArray[np.uint8]
# Drawn faces that YuNet finds about as well as photographed ones.
PEOPLE = [person for place, person in enumerate(rendered_people(7)) if place not in (0, 2)]
MIDDLE = np.s_[16:96, 16:96]


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    path = find_detector_model(LIMITS)
    assert path is not None
    return FaceDetector(path)


def chosen(detector: FaceDetector, picture: Picture) -> DetectedFace:
    return choose_face(detector.find(picture), FaceImage(b"", "detect"), "image")


def alike(detector: FaceDetector, picture: Picture, original: Picture) -> float:
    """Correlation of the crops of a changed picture and of its original."""
    crops = [align_face(each, chosen(detector, each).landmarks) for each in (picture, original)]
    one, other = (crop[MIDDLE].ravel().astype(float) for crop in crops)
    return float(np.corrcoef(one, other)[0, 1])


@pytest.mark.parametrize("person", PEOPLE, ids=lambda person: person.name)
@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_quarter_turns_give_the_same_crop(detector: FaceDetector, person, quarters: int) -> None:
    turned = np.ascontiguousarray(np.rot90(person.photograph, quarters))
    assert alike(detector, turned, person.photograph) > 0.97


@pytest.mark.parametrize("degrees", [-140, -75, -30, 15, 45, 160])
def test_tilted_faces_are_turned_upright(detector: FaceDetector, degrees: float) -> None:
    picture = PEOPLE[0].photograph
    turned = tilt(picture, degrees, cv2.BORDER_REPLICATE)
    assert alike(detector, turned, picture) > 0.75


@pytest.mark.parametrize("factor", [0.5, 2, 4])
def test_the_size_of_the_picture_does_not_matter(detector: FaceDetector, factor: float) -> None:
    picture = PEOPLE[1].photograph
    resized = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_CUBIC)
    assert alike(detector, np.asarray(resized, np.uint8), picture) > 0.85


def test_a_small_face_in_twelve_megapixels_is_found(detector: FaceDetector) -> None:
    scene = wall(3000, 4000, np.random.default_rng(0))
    # The face is about 90 pixels high.
    paste(scene, PEOPLE[0].photograph, 0.85, 3100, 400)
    face = chosen(detector, scene)
    middle = np.mean(face.landmarks, axis=0)
    assert np.linalg.norm(middle - [3100 + 0.85 * 125, 400 + 0.85 * 130]) < 25
    assert 60 < face.box.height < 130


def test_a_face_that_fills_the_picture_is_found(detector: FaceDetector) -> None:
    tight = PEOPLE[0].photograph[69:181, 69:181]
    large = cv2.resize(tight, None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    face = chosen(detector, np.asarray(large, np.uint8))
    assert 200 < eye_distance(np.array(face.landmarks, np.float32)) < 360


def test_pictures_without_a_face_have_none(detector: FaceDetector) -> None:
    rng = np.random.default_rng(1)
    for picture in (wall(480, 640, rng), wall(700, 1500, rng)):
        assert detector.find(picture) == Faces((), ())


def test_one_face_is_counted_once(detector: FaceDetector) -> None:
    for person in PEOPLE:
        upside_down = np.ascontiguousarray(person.photograph[::-1, ::-1])
        assert len(detector.find(person.photograph).certain) == 1
        assert len(detector.find(upside_down).certain) == 1


def test_a_face_that_is_mostly_outside_is_refused() -> None:
    points = ((10.0, 50.0), (46.0, 50.0), (28.0, 70.0), (13.0, 91.0), (43.0, 91.0))
    face = DetectedFace(Box(-10, 10, 80, 100), points, 0.9)
    require_whole_face(face, 200, 200, "image")
    with pytest.raises(InvalidInput, match=r"image\.data: shows a face that is cut off"):
        require_whole_face(face, 50, 200, "image")


def test_a_face_whose_looks_disagree_is_named_in_the_refusal(detector: FaceDetector) -> None:
    squashed = cv2.resize(PEOPLE[0].photograph, (85, 250))
    found = detector.find(np.asarray(squashed, np.uint8))
    assert found.certain == ()
    refusal = r"image\.data: shows a face of about 4\dx5\d pixels at x 2\d, y 10\d, but two looks"
    with pytest.raises(InvalidInput, match=refusal):
        choose_face(found, FaceImage(b"", "detect"), "image")


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_large_turned_face_is_found_beside_a_small_upright_one(
    detector: FaceDetector, quarters: int
) -> None:
    scene = wall(600, 1000, np.random.default_rng(quarters))
    paste(scene, PEOPLE[0].photograph, 0.45, 40, 40)
    paste(scene, np.ascontiguousarray(np.rot90(PEOPLE[2].photograph, quarters)), 2.0, 450, 60)
    faces = detector.find(scene).certain
    assert len(faces) == 2
    middle = np.mean(faces[0].landmarks, axis=0)
    assert np.linalg.norm(middle - [700, 310]) < 40


@pytest.mark.material
@pytest.mark.parametrize("quarters", [1, 3])
def test_large_turned_photographs_are_found_beside_small_upright_ones(
    detector: FaceDetector, material: Path, quarters: int
) -> None:
    # Half of these faces show nothing at all in a look at the scene as it stands.
    people = photographed_people(material)
    for place in range(0, 60, 4):
        scene = wall(600, 1000, np.random.default_rng(place))
        paste(scene, people[place - 7].photograph, 0.8, 20, 20)
        turned = np.ascontiguousarray(np.rot90(people[place].photograph, quarters))
        paste(scene, turned, 2.0, 450, 60)
        middle = np.mean(chosen(detector, scene).landmarks, axis=0)
        assert np.linalg.norm(middle - [700, 310]) < 80, people[place].name


@pytest.mark.parametrize("corner", [(0.0, 0.0), (920.0, 0.0), (0.0, 720.0), (920.0, 720.0)])
def test_a_larger_face_wins_wherever_it_lies(corner: tuple[float, float]) -> None:
    middle = DetectedFace(Box(466, 367, 66, 66), (), 0.95)
    larger = DetectedFace(Box(*corner, 80, 82), (), 0.85)
    assert by_prominence([middle, larger], 1000, 800) == (larger, middle)


def test_of_equal_faces_the_one_in_the_middle_wins() -> None:
    middle = DetectedFace(Box(470, 370, 60, 60), (), 0.9)
    aside = DetectedFace(Box(0, 0, 60, 60), (), 0.9)
    assert by_prominence([aside, middle], 1000, 800) == (middle, aside)


def test_the_larger_of_two_rendered_faces_is_chosen(detector: FaceDetector) -> None:
    boxes = [chosen(detector, person.photograph).box for person in PEOPLE]
    assert count_right_choices(lambda p: chosen(detector, p), PEOPLE, boxes, 6) == 6


# Most genuine decisions that may change, and the least mean cosine. The decisions are those of the
# goal, and so are the cosines of quarter turns; docs/robustness.md says what keeps the others
# below their goals of 0.97, or 0.95 for x0.5.
BARS = {
    "turned by 90°": (1, 0.99),
    "turned by 180°": (1, 0.99),
    "turned by 270°": (1, 0.99),
    "tilted by +15°": (2, 0.93),
    "tilted by -30°": (2, 0.945),
    "tilted by +45°": (2, 0.945),
    "turned by any angle": (2, 0.94),
    "x4": (2, 0.955),
    "x0.5": (2, 0.94),
    "12 MP, face 3 % of the height": (2, 0.95),
}


@pytest.mark.material
@pytest.mark.slow
@pytest.mark.parametrize("name", BARS)
def test_photographs_keep_their_decisions(
    name: str, material: Path, detector: FaceDetector, tmp_path: Path
) -> None:
    people = photographed_people(material)
    photographs = [person.photograph for person in people]
    boxes = [single_pass().choose(photograph).box for photograph in photographs]
    judge = judge_of(people, tmp_path)
    variant = next(one for one in variants() if one.name == name)

    def choose(picture: Picture) -> DetectedFace:
        return chosen(detector, picture)

    seen = judge.embed(choose, variant.of_all(photographs, boxes))
    outcome = judge.compare(seen, judge.embed(choose, photographs))
    flips, cosine = BARS[name]
    assert outcome.missed == 0
    assert outcome.genuine_flips <= flips
    assert outcome.mean_cosine >= cosine


@pytest.mark.material
@pytest.mark.slow
def test_upright_photographs_keep_the_embeddings_of_the_old_procedure(
    material: Path, detector: FaceDetector, tmp_path: Path
) -> None:
    people = photographed_people(material)
    photographs = [person.photograph for person in people]
    judge = judge_of(people, tmp_path)
    seen = judge.embed(lambda picture: chosen(detector, picture), photographs)
    outcome = judge.compare(seen, judge.embed(single_pass().choose, photographs))
    assert outcome.missed == 0
    assert outcome.genuine_flips + outcome.impostor_flips <= 1
    assert outcome.mean_cosine >= 0.99


def single_pass() -> SinglePassDetector:
    path = find_detector_model(LIMITS)
    assert path is not None
    return SinglePassDetector(path)


def judge_of(people: list[Person], scratch: Path) -> Judge:
    session = open_session(export_default(scratch / "default"))
    return Judge(session, default_calibration().threshold, people)
