"""Reference faces come from a folder per identity."""

from pathlib import Path

import numpy as np
import pytest

from services.trainer.reference import read_reference
from shared.datasets.render import render_person, write_people
from shared.errors import InvalidInput
from shared.settings import ImageLimits


def test_each_face_comes_with_its_person(tmp_path: Path):
    write_people(tmp_path, people=3, images=2, seed=0, suffix=".png")
    reference = read_reference(tmp_path, ImageLimits())
    assert reference.persons.tolist() == [0, 0, 1, 1, 2, 2]
    assert np.array_equal(reference.crops[3], render_person(1, 1))


def test_a_file_that_is_no_face_is_named(tmp_path: Path):
    write_people(tmp_path, people=2, images=1, seed=0)
    (tmp_path / "person_00001" / "cat.jpg").write_bytes(b"meow")
    with pytest.raises(InvalidInput, match="cat"):
        read_reference(tmp_path, ImageLimits())


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput):
        read_reference(tmp_path, ImageLimits())
