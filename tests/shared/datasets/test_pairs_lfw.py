from pathlib import Path

import pytest

from shared.datasets.pair_files import read_pair_file
from shared.errors import InvalidInput
from tests.shared.datasets.files import people


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    people(tmp_path / "faces", {"Ada_L": 3, "Bob": 2, "Cy": 2})
    (tmp_path / "faces" / "Cy" / "Cy_0003.png").write_bytes(b"")
    return tmp_path / "faces"


def write(folder: Path, *lines: str) -> Path:
    path = folder / "pairs.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


FOLDS = """2\t2
Ada_L\t1\t2
Bob\t1\t2
Ada_L\t1\tBob\t2
Cy\t3\tBob\t1
Cy\t1\t2
Ada_L\t2\t3
Cy\t1\tAda_L\t1
Bob\t2\tCy\t2
"""


def test_folds_and_labels_follow_the_order_of_the_lines(tmp_path: Path, faces: Path) -> None:
    pair_set = read_pair_file(write(tmp_path, FOLDS), images=faces)
    assert pair_set.labels.tolist() == [True, True, False, False] * 2
    assert pair_set.folds is not None
    assert pair_set.folds.tolist() == [0] * 4 + [1] * 4
    assert pair_set.name(int(pair_set.pairs[3, 0])) == str(faces / "Cy" / "Cy_0003.png")
    assert len(pair_set.images) == 8
    assert pair_set.identities is not None
    assert pair_set.identities[pair_set.pairs[7, 1]] == "Cy"


def test_a_single_number_means_one_fold(faces: Path) -> None:
    path = write(faces, "1", "Bob 1 2", "Cy 1 Bob 1")
    pair_set = read_pair_file(path)
    assert pair_set.labels.tolist() == [True, False]
    assert pair_set.folds is None


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (("",), "is empty"),
        (("Bob 1 2",), "line 1: must give the number of folds"),
        (("0 300",), "line 1: must give the number of folds"),
        (("1 1", "Bob 1 2"), "has 1 pairs; its first line announces 1 x 2 x 1 = 2"),
        (("1", "Bob 1 2", "Bob 1 2"), "line 3: is 'Bob 1 2'; `name1 n1 name2 n2`"),
        (("1", "Bob 1 Cy 1", "Bob 1 Cy 1"), "line 2: is 'Bob 1 Cy 1'; `name n1 n2`"),
        (("1", "Bob one 2", "Bob 1 Cy 1"), "line 2"),
        (("1", "Bob 1 1", "Bob 1 Cy 1"), "line 2: compares an image with itself"),
        (("1", "Bob 1 2", "Bob 1 Bob 1"), "line 3: compares an image with itself"),
        (("1", "Bob 1 2", "Bob 2 Bob 1"), "line 3: contradicts line 2"),
        (("2", *["Bob 1 2", "Bob 2 1"], *["Bob 1 Cy 1"] * 2), "line 3: repeats line 2"),
        (("2 1", *["Bob 1 2", "Bob 1 Cy 1"] * 2), "line 4: repeats line 2"),
    ],
)
def test_the_line_at_fault_is_named(faces: Path, lines: tuple[str, ...], why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        read_pair_file(write(faces, *lines))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
def test_names_between_tabs_may_have_blanks(tmp_path: Path, encoding: str, ends: str) -> None:
    people(tmp_path, {"Zoë de la Cruz": 2, "Bob": 1})
    lines = ["1", "Zoë de la Cruz\t1\t2", "Zoë de la Cruz\t1\tBob\t1\t", ""]
    (tmp_path / "pairs.txt").write_bytes(ends.join(lines).encode(encoding))
    pair_set = read_pair_file(tmp_path / "pairs.txt")
    assert pair_set.identities == ("Zoë de la Cruz", "Zoë de la Cruz", "Bob")
    assert all(pair_set.data(image) for image in range(3))


def test_an_image_that_does_not_exist_is_named_when_it_is_needed(faces: Path) -> None:
    pair_set = read_pair_file(write(faces, "1", "Bob 1 9", "Bob 1 Cy 1"))
    with pytest.raises(InvalidInput, match=r"Bob_0009\.jpg: cannot be read"):
        pair_set.data(1)


def test_a_file_that_is_no_text_is_refused(faces: Path) -> None:
    path = faces / "pairs.txt"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidInput, match="cannot be read as text"):
        read_pair_file(path)
