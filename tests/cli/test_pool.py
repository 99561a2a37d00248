"""Tests of the commands for the image pool, on real services."""

import json
import os
import shutil
from pathlib import Path

from deploy.local.stack import Stack
from tests.cli.conftest import Ask, Magface
from tests.services.trainer.people import encode
from tests.support.waiting import wait_until


def test_a_folder_of_people_becomes_a_pool_and_pairs_to_label(ask: Ask, people: Path) -> None:
    images = sum(1 for path in people.rglob("*") if path.is_file() and path.suffix != ".json")
    first = ask("feedback", "import-images", people, "--identities")
    assert first["created"] + first["known"] == first["images"] == images
    again = ask("feedback", "import-images", people, "--identities")
    assert (again["created"], again["known"]) == (0, images)

    def leased() -> bool:
        return bool(ask("feedback", "next", "--annotator", "cli-pool", "--count", "2")["pairs"])

    wait_until(leased, timeout_s=30)
    hard = ask("feedback", "next", "--annotator", "cli-hard", "--count", "3", "--strategy", "hard")
    for pair in hard["pairs"]:
        assert len(pair["sha256_a"]) == len(pair["sha256_b"]) == 64
    assert "annotators" in ask("feedback", "annotators")


def test_the_same_picture_in_two_folders_has_both_names(ask: Ask, tmp_path: Path) -> None:
    for name in ("anna", "bob"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.png").write_bytes(encode(5020, 0))
    answer = ask("feedback", "import-images", tmp_path, "--identities", "--alignment", "aligned")
    assert [
        (Path(one["image"]).parent.name, one["names"]) for one in answer["named_otherwise"]
    ] == [
        ("anna", ["bob"]),
        ("bob", ["anna"]),
    ]
    assert ask("feedback", "erase-subject", "bob", "--by", "dpo")["images"] == 1


def test_an_image_that_is_rejected_is_named_and_the_others_are_stored(
    magface: Magface, stack: Stack, people: Path, tmp_path: Path
) -> None:
    good = next(path for path in sorted(people.rglob("*.*")) if path.suffix in {".png", ".jpg"})
    (tmp_path / f"good{good.suffix}").write_bytes(good.read_bytes())
    (tmp_path / "worse.png").write_bytes(b"no picture")
    result = magface("feedback", "import-images", tmp_path, "--dir", stack.folder)
    assert result.exit_code == 1
    assert "worse.png" in result.stderr
    assert "1 of 2 images were rejected" in result.stderr


def test_odd_entries_are_rejected_and_the_others_stored(
    magface: Magface, stack: Stack, people: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(people, folder)
    images = sum(1 for path in folder.rglob("*") if path.suffix in {".png", ".jpg"})
    odd = next(path for path in folder.iterdir() if path.is_dir())
    (odd / "album.jpg").mkdir()
    (odd / "dangling.jpg").symlink_to(odd / "absent.jpg")
    (odd / "loop.jpg").symlink_to(odd / "loop.jpg")
    (odd / "up").symlink_to(folder)
    os.mkfifo(odd / "pipe.jpg")
    for more in ((), ("--identities",)):
        command = ("feedback", "import-images", folder, *more, "--dir", stack.folder, "--json")
        result = magface(*command)
        assert result.exit_code == 1
        assert f"3 of {images + 3} images were rejected" in result.stderr
        answer = json.loads(result.stdout)
        assert answer["created"] + answer["known"] == images
        named = {Path(one["image"]).name for one in answer["rejected"]}
        assert named == {"dangling.jpg", "loop.jpg", "pipe.jpg"}


def test_pairs_with_an_unreadable_image_are_refused_and_the_others_stored(
    magface: Magface, stack: Stack, people: Path, tmp_path: Path
) -> None:
    pictures = sorted(path for path in people.rglob("*.*") if path.suffix in {".png", ".jpg"})
    entries = [
        {"image1": str(pictures[0]), "image2": "absent.jpg", "label": 1},
        {"image1": str(pictures[0]), "image2": str(pictures[1]), "label": 1},
        {"image1": str(pictures[1]), "image2": str(tmp_path), "label": 0},
    ]
    file = tmp_path / "pairs.json"
    file.write_text(json.dumps({"pairs": entries}))
    command = ("feedback", "import", file, "--annotator", "odd", "--dir", stack.folder, "--json")
    result = magface(*command)
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert answer["created"] == 1
    assert [one["pair"] for one in answer["rejected"]] == [0, 2]
    assert "absent.jpg" in answer["rejected"][0]["why"]
