"""Reference faces: from a folder, from the object store, and the bundled ones."""

import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from cli.rendering.renderer import render_person, write_people
from services.trainer.data.reference_faces import (
    ReferenceFaces,
    default_reference,
    load_reference,
    read_reference,
    store_reference,
)
from shared.errors import CorruptData, InvalidInput, NotFound
from shared.settings import ImageLimits
from shared.storage.objects import ObjectStore


def test_each_face_comes_with_its_person(tmp_path: Path):
    write_people(tmp_path, people=20, images=2, seed=0, suffix=".png")
    reference = read_reference(tmp_path, ImageLimits())
    assert reference.persons.tolist() == np.repeat(np.arange(20), 2).tolist()
    assert np.array_equal(reference.crops[3], render_person(1, 1))
    assert reference.sha256 is None


def test_files_that_are_no_face_are_named_and_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write_people(tmp_path, people=20, images=2, seed=0)
    whole = read_reference(tmp_path, ImageLimits())
    (tmp_path / "person_00001" / "cat.jpg").write_bytes(b"meow")
    (tmp_path / "person_00002" / "dangling.jpg").symlink_to(tmp_path / "absent.jpg")
    with caplog.at_level(logging.WARNING):
        reference = read_reference(tmp_path, ImageLimits())
    assert np.array_equal(reference.crops, whole.crops)
    assert reference.persons.tolist() == whole.persons.tolist()
    assert "cat.jpg" in caplog.text
    assert "dangling.jpg" in caplog.text


def test_people_too_few_to_tell_a_loss_are_refused(tmp_path: Path):
    write_people(tmp_path, people=20, images=2, seed=0)
    next((tmp_path / "person_00001").iterdir()).unlink()
    with pytest.raises(InvalidInput, match="19 people with two or more faces"):
        read_reference(tmp_path, ImageLimits())


def test_an_empty_folder_is_refused(tmp_path: Path):
    with pytest.raises(InvalidInput):
        read_reference(tmp_path, ImageLimits())


def test_what_a_version_names_is_found_again_as_it_was(object_store: ObjectStore):
    crops = np.stack([render_person(person, 0) for person in range(3)])
    kept = store_reference(object_store, ReferenceFaces(crops, np.arange(3)))
    assert kept.sha256
    again = store_reference(object_store, ReferenceFaces(crops, np.arange(3)))
    assert again.sha256 == kept.sha256
    found = load_reference(object_store, kept.sha256)
    assert np.array_equal(found.crops, crops)
    assert found.persons.tolist() == [0, 1, 2]
    assert found.sha256 == kept.sha256


def test_what_is_kept_is_crops_alone_and_follows_the_folder(
    tmp_path: Path, object_store: ObjectStore
):
    """An erasure cannot find a stored face by its hash; deleting it from the folder removes it."""
    write_people(tmp_path, people=21, images=2, seed=0, suffix=".png")
    erased = sorted(tmp_path.iterdir())[3]
    with_them = store_reference(object_store, read_reference(tmp_path, ImageLimits()))
    crop = with_them.crops[with_them.persons == 3][0]
    (stored,) = [object_store.get(found.key) for found in object_store.list("reference/")]
    assert crop.tobytes() in stored
    for file in erased.iterdir():
        data = file.read_bytes()
        digest = hashlib.sha256(data)
        for trace in (data, digest.digest(), digest.hexdigest().encode(), erased.name.encode()):
            assert trace not in stored
        file.unlink()
    erased.rmdir()
    without = store_reference(object_store, read_reference(tmp_path, ImageLimits()))
    assert without.sha256 != with_them.sha256
    assert crop.tobytes() not in object_store.get(f"reference/{without.sha256}.safetensors")


def test_groups_of_the_folder_are_kept_by_person(
    tmp_path: Path, object_store: ObjectStore, caplog: pytest.LogCaptureFixture
):
    write_people(tmp_path, people=21, images=2, seed=0)
    for file in (tmp_path / "person_00000").iterdir():
        file.write_bytes(b"no picture")
    rows = "person_00001,dark\nperson_00003,light\nperson_00000,dark\nnobody,dark\n"
    (tmp_path / "groups.csv").write_text(f"identity,group\n{rows}")
    with caplog.at_level(logging.WARNING):
        faces = read_reference(tmp_path, ImageLimits())
    assert "'nobody' (line 5)" in caplog.text
    # Person 0 of the folder has no face, so that the first row is person 0 of the faces.
    assert faces.groups == ("dark", "", "light", *[""] * 17)
    kept = store_reference(object_store, faces)
    assert kept.sha256
    assert load_reference(object_store, kept.sha256).groups == faces.groups
    (tmp_path / "groups.csv").unlink()
    without = read_reference(tmp_path, ImageLimits())
    assert without.groups == ()
    assert store_reference(object_store, without).sha256 != kept.sha256


def test_groups_that_cannot_be_read_are_refused(tmp_path: Path):
    write_people(tmp_path, people=20, images=2, seed=0)
    (tmp_path / "groups.csv").write_text("identity,group\nperson_00001\n")
    with pytest.raises(InvalidInput, match=r"groups.csv: line 2.*has 1 fields"):
        read_reference(tmp_path, ImageLimits())


def test_faces_without_groups_have_the_name_that_they_always_had(object_store: ObjectStore):
    crops = (np.arange(3 * 112 * 112 * 3) % 251).astype(np.uint8).reshape(3, 112, 112, 3)
    kept = store_reference(object_store, ReferenceFaces(crops, np.arange(3)))
    assert kept.sha256 == "9afd44837249ffe9dde79406215c5601fcb7139d67f21a4cf7cd903769cbc2f7"
    assert load_reference(object_store, kept.sha256).groups == ()


def test_missing_and_damaged_reference_faces_are_refused(object_store: ObjectStore):
    faces = ReferenceFaces(np.zeros((1, 112, 112, 3), np.uint8), np.arange(1))
    name = store_reference(object_store, faces).sha256
    assert name
    object_store.put(f"reference/{name}.safetensors", b"something else")
    with pytest.raises(CorruptData):
        load_reference(object_store, name)
    with pytest.raises(NotFound):
        load_reference(object_store, "0" * 64)


def test_the_bundled_people_are_enough():
    people, images = np.unique(default_reference().persons, return_counts=True)
    assert len(people) >= 40
    assert images.min() >= 2
