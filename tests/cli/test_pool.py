"""Tests of the commands for the image pool, on real services."""

from pathlib import Path

from deploy.local.stack import Stack
from tests.cli.conftest import Ask, Magface
from tests.services.feedback.support.helpers import picture
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
        (tmp_path / name / "1.png").write_bytes(picture(5020))
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
