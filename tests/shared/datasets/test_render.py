from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from cli.rendering.bundled_crops import render_golden_crops
from cli.rendering.renderer import groups_of_people, render_person, write_people
from cli.rendering.traits import draw_traits
from shared.datasets.folder import read_identities
from shared.errors import InvalidInput
from shared.model.image.align import ARCFACE_TEMPLATE
from shared.model.image.detection.detector import FaceDetector
from shared.model.image.detection.yunet import find_detector_model
from shared.settings import ImageLimits
from tests.shared.datasets.contact_sheet import SHEET, contact_sheet


def test_a_picture_is_a_crop_of_112() -> None:
    crop = render_person(0, 0)
    assert crop.shape == (112, 112, 3)
    assert crop.dtype == np.uint8


def test_the_same_seeds_give_the_same_bytes() -> None:
    assert np.array_equal(render_person(5, 3), render_person(5, 3))


def test_people_look_as_the_documentation_shows_them() -> None:
    """A change here changes every rendered set; codecs may differ slightly."""
    shown = np.asarray(cv2.imread(str(SHEET))).astype(int)
    assert np.abs(shown - contact_sheet()).mean() < 1.0


def test_other_seeds_give_other_pictures_and_people() -> None:
    pictures = {render_person(p, k).tobytes() for p in range(5) for k in range(5)}
    assert len(pictures) == 25
    assert len({draw_traits(person) for person in range(200)}) == 200


def test_nothing_degenerate_is_rendered() -> None:
    for person in range(60):
        crop = render_person(person, person)
        assert crop.std() > 8, f"person {person} cannot be seen"


def test_faces_are_aligned_to_the_template() -> None:
    path = find_detector_model(ImageLimits())
    assert path is not None
    detector = FaceDetector(path)
    distances, missed = [], 0
    for person in range(60):
        wall = cv2.copyMakeBorder(render_person(person, 0), 56, 56, 56, 56, cv2.BORDER_REPLICATE)
        faces = detector.find(np.asarray(wall, np.uint8)).certain
        if not faces:
            missed += 1
            continue
        found = np.array(faces[0].landmarks) - 56
        distances.append(np.linalg.norm(found - ARCFACE_TEMPLATE, axis=1).mean())
    assert missed <= 6
    assert np.median(distances) < 6


def test_one_person_s_pictures_are_more_alike_than_two_people_s() -> None:
    """Nearest neighbour by the mean colours of eight areas, which is far less than a face."""
    people, images = 40, 6
    colours = np.array(
        [
            [cv2.resize(render_person(p, k), (2, 4), interpolation=cv2.INTER_AREA).ravel()
             for k in range(images)]
            for p in range(people)
        ],
        dtype=np.float64,
    )  # fmt: skip
    within = colours.std(axis=1).mean()
    between = colours.reshape(-1, 24).std(axis=0).mean()
    assert within < 0.95 * between


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_people_are_written_as_a_folder_per_identity(tmp_path: Path, suffix: str) -> None:
    write_people(tmp_path / "one", people=3, images=2, seed=1, suffix=suffix)  # type: ignore[arg-type]
    write_people(tmp_path / "two", people=3, images=2, seed=1, suffix=suffix)  # type: ignore[arg-type]
    found = read_identities(tmp_path / "one").images
    assert {name: [file.name for file in files] for name, files in found.items()} == {
        f"person_0000{person}": [f"0{image}{suffix}" for image in range(2)] for person in range(3)
    }
    for files in found.values():
        for file in files:
            again = tmp_path / "two" / file.parent.name / file.name
            assert file.read_bytes() == again.read_bytes()
    written = cv2.imread(str(tmp_path / "one" / "person_00002" / f"01{suffix}"))
    assert np.abs(written.astype(int) - render_person(100_002, 1)).mean() < 4


def test_seeds_share_nobody(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_people(tmp_path / str(seed), people=3, images=1, seed=seed, suffix=".png")
    files = sorted(tmp_path.rglob("*.png"))
    assert len({file.read_bytes() for file in files}) == len(files) == 6


def test_rendering_nothing_is_refused(tmp_path: Path) -> None:
    for people, images in ((0, 3), (3, 0)):
        with pytest.raises(InvalidInput):
            write_people(tmp_path, people, images, seed=0)


def test_golden_crops_are_fixed_and_distinct() -> None:
    assert render_golden_crops().shape == (3, 112, 112, 3)
    assert np.array_equal(render_golden_crops(5)[:3], render_golden_crops())
    assert len({crop.tobytes() for crop in render_golden_crops(5)}) == 5


def test_skin_tones_are_seen_on_the_faces() -> None:
    groups = groups_of_people(60, 5)
    assert set(Counter(groups.values())) == {"light skin", "medium skin", "dark skin"}
    assert min(Counter(groups.values()).values()) >= 12
    brightness: dict[str, list[float]] = {}
    for person, group in enumerate(groups.values()):
        face = np.concatenate([render_person(500_000 + person, k)[60:75, 35:75] for k in range(2)])
        brightness.setdefault(group, []).append(float(face.mean()))
    dark, medium, light = (
        float(np.mean(brightness[f"{tone} skin"])) for tone in ("dark", "medium", "light")
    )
    assert dark + 20 < medium < light - 20
