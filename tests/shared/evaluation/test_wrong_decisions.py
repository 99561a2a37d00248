"""Export of wrong decisions as image folders."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from shared.datasets.pairs import PairSet
from shared.evaluation.embed import EmbeddedSet
from shared.evaluation.measure import Measurement, measure
from shared.evaluation.report.wrong_decisions import find_errors, write_error_folders
from tests.shared.evaluation.sets import plane_set

SIMILARITIES = [0.9, 0.327, 0.1, 0.5, 0.45, 0.0]
LABELS = [True, True, True, False, False, False]


@pytest.fixture
def people(tmp_path: Path) -> PairSet:
    """Pairs of image files in folders, one for each identity."""
    pair_set, _ = plane_set(SIMILARITIES, LABELS)
    files = []
    assert pair_set.identities is not None
    for number, person in enumerate(pair_set.identities):
        file = tmp_path / "faces" / person / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(file), crop(number))
        files.append(file)
    return PairSet(
        images=tuple(files),
        pairs=pair_set.pairs,
        labels=pair_set.labels,
        identities=pair_set.identities,
    )


@pytest.fixture
def measured(people: PairSet) -> Measurement:
    magnitudes = [20 + number / 2 for number in range(12)]
    embedded: EmbeddedSet
    _, embedded = plane_set(SIMILARITIES, LABELS, magnitudes)
    return measure("model-1", embedded, people, 0.4)


def crop(image: int) -> np.ndarray:
    return np.full((112, 112, 3), 10 + 20 * image, np.uint8)


def test_all_errors_are_found_worst_first(measured: Measurement, people: PairSet) -> None:
    found = [(e.pair, e.kind) for e in find_errors(measured, people)]
    assert found == [
        (2, "false_negative"),
        (3, "false_positive"),
        (1, "false_negative"),
        (4, "false_positive"),
    ]


def test_each_error_has_a_folder_with_both_images_and_what_went_wrong(
    measured: Measurement, people: PairSet, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    write_error_folders(out, people, measured, crop)
    folders = sorted(str(path.parent.relative_to(out)) for path in out.rglob("info.txt"))
    assert folders == [
        "false_negatives/pair_001_sim0.100",
        "false_negatives/pair_002_sim0.327",
        "false_positives/pair_001_sim0.500",
        "false_positives/pair_002_sim0.450",
    ]
    folder = out / "false_negatives/pair_002_sim0.327"
    assert sorted(path.name for path in folder.iterdir()) == [
        "comparison.png",
        "img1_p1_002.png",
        "img2_p1_003.png",
        "info.txt",
    ]
    original = people.data(2)
    assert (folder / "img1_p1_002.png").read_bytes() == original
    info = (folder / "info.txt").read_text()
    for words in ("0.3270", "threshold 0.4", "Actual: same person", "magnitude 21.00"):
        assert words in info
    picture = cv2.imread(str(folder / "comparison.png"))
    assert picture is not None
    assert [picture[100, 100, 0], picture[100, 350, 0]] == [50, 70]


def test_the_summary_lists_all_errors_and_where_they_are(
    measured: Measurement, people: PairSet, tmp_path: Path
) -> None:
    write_error_folders(tmp_path, people, measured, crop, most=1)
    summary = json.loads((tmp_path / "error_summary.json").read_text())
    assert summary["model"] == "model-1"
    assert (summary["pairs"], summary["threshold"]) == (6, 0.4)
    assert (summary["false_positives"], summary["false_negatives"]) == (2, 2)
    places = [error["folder"] for error in summary["errors"]]
    assert places == [
        "false_negatives/pair_001_sim0.100",
        "false_positives/pair_001_sim0.500",
        None,
        None,
    ]
    assert all((tmp_path / place / "info.txt").is_file() for place in places if place)
    assert summary["errors"][0]["images"] == [str(people.images[4]), str(people.images[5])]
    assert summary["errors"][0]["magnitudes"] == [22.0, 22.5]


def test_an_earlier_tree_is_replaced(
    measured: Measurement, people: PairSet, tmp_path: Path
) -> None:
    write_error_folders(tmp_path, people, measured, crop)
    raised = measure("model-2", measured.embedded, people, 0.6)
    write_error_folders(tmp_path, people, raised, crop)
    assert list((tmp_path / "false_positives").iterdir()) == []
    assert len(list((tmp_path / "false_negatives").iterdir())) == 2


def test_images_without_files_are_written_by_their_place(tmp_path: Path) -> None:
    pair_set, embedded = plane_set([0.1], [True])
    write_error_folders(tmp_path, pair_set, measure("m", embedded, pair_set, 0.4), crop)
    assert (tmp_path / "false_negatives/pair_001_sim0.100/img2_image_00001.jpg").is_file()
