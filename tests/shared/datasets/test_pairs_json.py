import json
from pathlib import Path
from typing import Any

import pytest

from shared.datasets.pair_files import read_pair_file
from shared.datasets.pairs_json import read_pairs_json, write_pairs_json
from shared.datasets.sampling import SampleSize, sample_pairs
from shared.errors import InvalidInput
from shared.model.image.face import Box, FaceImage
from tests.shared.datasets.files import CONTENT, people, same


def write(folder: Path, *pairs: Any) -> Path:
    path = folder / "pairs.json"
    path.write_text(json.dumps({"pairs": pairs}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.jpg").write_bytes(CONTENT)
    return tmp_path


def pair(one: str = "a.jpg", other: str = "b.jpg", label: Any = 1) -> dict[str, Any]:
    return {"image1": one, "image2": other, "label": label}


def test_paths_are_relative_to_the_file_and_each_image_is_listed_once(folder: Path) -> None:
    path = write(
        folder,
        pair(),
        pair("b.jpg", "c.jpg", 0),
        pair("x/../a.jpg", str(folder / "c.jpg"), 0),
    )
    pair_set = read_pair_file(path)
    assert pair_set.images == tuple(folder / f"{name}.jpg" for name in "abc")
    assert pair_set.pairs.tolist() == [[0, 1], [1, 2], [0, 2]]
    assert pair_set.labels.tolist() == [True, False, False]
    assert pair_set.folds is None
    assert pair_set.identities is None
    assert pair_set.data(0) == CONTENT


def test_another_folder_for_the_images_can_be_given(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lists").mkdir()
    path = write(tmp_path / "lists", pair())
    assert read_pair_file(path, images=folder).images[0] == folder / "a.jpg"
    with pytest.raises(InvalidInput, match="No such file"):
        read_pair_file(path).data(0)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    identities = people(tmp_path / "faces", {"ada": 4, "bob": 3, "zoë": 5})
    chosen = sample_pairs(identities, SampleSize(12), seed=0)
    path = tmp_path / "lists" / "pairs.json"
    write_pairs_json(chosen, path)
    assert json.loads(path.read_text())["pairs"][0]["image1"].startswith("../faces/")
    found = read_pairs_json(path)
    assert sorted(map(str, found.images)) == sorted(map(str, chosen.images))
    assert found.labels.tolist() == chosen.labels.tolist()
    names = [found.name(first) for first, _ in found.pairs.tolist()]
    assert names == [chosen.name(first) for first, _ in chosen.pairs.tolist()]
    assert found.identities is not None
    assert set(found.identities) == set(identities)
    rewritten = tmp_path / "lists" / "again.json"
    write_pairs_json(found, rewritten)
    assert same(read_pairs_json(rewritten), found)


def test_the_typo_of_the_seed_is_named(folder: Path) -> None:
    typo = {"image1": "a.jpg", "image4": "b.jpg", "label": 0}
    with pytest.raises(InvalidInput) as caught:
        read_pair_file(write(folder, pair(), typo))
    assert caught.value.field.endswith("pairs.json: pairs[1]")
    assert caught.value.reason == "has no image2; its keys are image1, image4, label"


@pytest.mark.parametrize(
    ("entry", "field", "reason"),
    [
        ({}, "pairs[1]", "has no image1 and no image2 and no label; its keys are none"),
        ([], "pairs[1]", "is not an object"),
        (pair(label=2), "pairs[1].label", "is 2"),
        (pair(label="1"), "pairs[1].label", "is '1'"),
        (pair(label=0.0), "pairs[1].label", "is 0.0"),
        (pair(label=None), "pairs[1].label", "is None"),
        (pair(label=[1]), "pairs[1].label", "is [1]"),
        (pair("a.jpg", ""), "pairs[1].image2", "is '', not the path"),
        (pair("a.jpg", 7), "pairs[1].image2", "is 7, not the path"),
        ({**pair(), "identity1": 5}, "pairs[1].identity1", "is 5, not a name"),
        (pair("a.jpg", "./a.jpg"), "pairs[1]", "compares an image with itself"),
        (pair("c.jpg", "b.jpg", 1), "pairs[1]", "contradicts pairs[0]"),
        (pair("c.jpg", "b.jpg", 0), "pairs[1]", "repeats pairs[0]"),
    ],
)
def test_the_entry_at_fault_is_named(folder: Path, entry: Any, field: str, reason: str) -> None:
    path = write(folder, pair("b.jpg", "c.jpg", 0), entry)
    with pytest.raises(InvalidInput) as caught:
        read_pair_file(path)
    assert caught.value.field == f"{path}: {field}"
    assert reason in caught.value.reason


@pytest.mark.parametrize("name", ["z.jpg", ".", "b.jpg\0", "n" * 300])
def test_a_file_that_cannot_be_read_is_named_when_it_is_needed(folder: Path, name: str) -> None:
    pair_set = read_pair_file(write(folder, pair("a.jpg", "b.jpg"), pair("a.jpg", name, 0)))
    with pytest.raises(InvalidInput) as caught:
        pair_set.data(2)
    assert caught.value.field == str(folder / name)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_json(folder: Path, encoding: str) -> None:
    path = write(folder, pair("a.jpg", "b.jpg"))
    path.write_text(path.read_text(), encoding)
    assert len(read_pair_file(path)) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"pairs": {}}', "{", "\x00", "[" * 10_000])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "pairs.json"
    path.write_text(content)
    with pytest.raises(InvalidInput, match=r"pairs\.json"):
        read_pair_file(path)


def test_no_pair_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there are none"):
        read_pair_file(write(tmp_path))


@pytest.mark.parametrize("name", ["absent.json", "pairs.csv"])
def test_the_kind_of_file_must_be_known(tmp_path: Path, name: str) -> None:
    (tmp_path / "pairs.csv").write_text("")
    with pytest.raises(InvalidInput, match=name):
        read_pair_file(tmp_path / name)


def test_images_of_an_export_are_cropped_as_it_says(folder: Path) -> None:
    box = {"x": 1.5, "y": -2, "width": 30, "height": 40}
    points = [{"x": x, "y": x + 0.5} for x in range(5)]
    images = {
        "one": {"file": "a.jpg", "alignment": "detect", "landmarks": [], "box": box},
        "other": {"file": "b.jpg", "alignment": "landmarks", "landmarks": points, "box": None},
    }
    path = folder / "export.json"
    path.write_text(json.dumps({"pairs": [pair()], "images": images}))
    pair_set = read_pairs_json(path)
    one, other = pair_set.face(0), pair_set.face(1)
    assert one == FaceImage(pair_set.data(0), "detect", box=Box(1.5, -2, 30, 40))
    assert other == FaceImage(pair_set.data(1), "landmarks", tuple((x, x + 0.5) for x in range(5)))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"alignment": "sideways"}, "alignment"),
        ({"box": {"x": 1, "y": 1, "width": 3}}, "box"),
        ({"box": [1, 2, 3, 4]}, "box"),
        ({"box": {"x": 1, "y": 1, "width": 3, "height": float("nan")}}, "box"),
        ({"landmarks": "none"}, "landmarks"),
        ({"landmarks": [{"x": 1}]}, "landmarks"),
    ],
)
def test_a_cropping_that_cannot_be_read_is_named(
    folder: Path, change: dict[str, Any], field: str
) -> None:
    image = {"file": "a.jpg", "alignment": "detect"} | change
    path = folder / "export.json"
    path.write_text(json.dumps({"pairs": [pair()], "images": {"ab": image}}))
    with pytest.raises(InvalidInput) as refused:
        read_pairs_json(path)
    assert refused.value.field == f"{path}: images[ab].{field}"
