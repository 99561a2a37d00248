from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.datasets.folder import read_identities, split_identities
from shared.errors import InvalidInput
from tests.shared.datasets.files import people


def test_identities_and_images_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    made = people(tmp_path, {"zoe": 2, "adam": 12, "mia": 1})
    found = read_identities(tmp_path)
    assert list(found) == ["adam", "mia", "zoe"]
    assert found == {name: made[name] for name in found}


def test_folders_whose_names_differ_in_their_form_only_are_one_identity(tmp_path: Path) -> None:
    people(tmp_path, {"Zoe\u0308": 1, "Zo\u00eb": 2, "adam": 1})
    found = read_identities(tmp_path)
    assert {name: len(files) for name, files in found.items()} == {"adam": 1, "Zo\u00eb": 3}


def test_other_files_are_passed_over(tmp_path: Path) -> None:
    people(tmp_path, {"adam": 1, ".hidden": 3})
    (tmp_path / "adam" / "notes.txt").write_text("no picture")
    (tmp_path / "adam" / "._adam_0001.jpg").write_bytes(b"")
    (tmp_path / "adam" / "UPPER.PNG").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    (tmp_path / "README.md").write_text("")
    found = read_identities(tmp_path)
    assert {name: [file.name for file in files] for name, files in found.items()} == {
        "adam": ["UPPER.PNG", "adam_0001.jpg"]
    }


def test_a_folder_without_identities_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no subfolder with images"):
        read_identities(tmp_path)
    with pytest.raises(InvalidInput, match="is not a folder"):
        read_identities(tmp_path / "absent")


@given(st.sets(st.text(min_size=1), min_size=6, max_size=40), st.integers(0, 2**32))
def test_splits_share_nobody_and_depend_on_names_and_seed_only(names: set[str], seed: int) -> None:
    sizes = {"train": len(names) - 4, "validation": 2, "test": 1}
    splits = split_identities(names, sizes, seed)
    assert {split: len(members) for split, members in splits.items()} == sizes
    everybody = [name for members in splits.values() for name in members]
    assert len(set(everybody)) == len(everybody)
    assert set(everybody) <= names
    assert split_identities(sorted(names, reverse=True), sizes, seed) == splits


def test_another_seed_splits_otherwise() -> None:
    names = [f"p{number}" for number in range(50)]
    splits = [split_identities(names, {"a": 25, "b": 25}, seed)["a"] for seed in (0, 1)]
    assert splits[0] != splits[1]


@pytest.mark.parametrize("sizes", [{"a": 3, "b": 2}, {"a": 0}, {"a": -1, "b": 2}])
def test_impossible_splits_are_refused(sizes: dict[str, int]) -> None:
    with pytest.raises(InvalidInput):
        split_identities(["x", "y", "z", "x"], sizes, 0)
