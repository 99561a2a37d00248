"""Tests of photographs with several faces: listing, drawing and choosing them."""

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from magface.v1 import embedder_pb2
from numpy.typing import NDArray

from cli.commands.faces import match_rates
from deploy.local.stack import Stack
from tests.cli.conftest import Ask, Magface
from tests.shared.model.pictures import with_orientation
from tests.support.photographs import GROUP, Place, encode_jpeg, photograph

SMALL = GROUP[1]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A group, an identity card of its small person, and a wall without a face."""
    folder = tmp_path_factory.mktemp("photos")
    pictures = {
        "group": photograph(*GROUP),
        "card": photograph((SMALL[0], 1, 50, 40, 180), width=300, height=260),
        "wall": photograph(),
    }
    for name, pixels in pictures.items():
        (folder / f"{name}.jpg").write_bytes(encode_jpeg(pixels))
    return {name: folder / f"{name}.jpg" for name in pictures}


def _inside(face: dict[str, Any], place: Place) -> bool:
    box = face["box"]
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    _, _, left, top, side = place
    return left < x < left + side and top < y < top + side


def _number(listed: dict[str, Any], place: Place) -> int:
    (face,) = [face for face in listed["faces"] if _inside(face, place)]
    return int(face["number"])


def _at_box(face: dict[str, Any]) -> str:
    return ",".join(f"{face['box'][side]:.0f}" for side in ("x", "y", "width", "height"))


def test_faces_are_listed_with_their_numbers(ask: Ask, photos: dict[str, Path]) -> None:
    answer = ask("faces", photos["group"], photos["wall"])
    group, wall = answer["photos"]
    assert (group["image"], group["width"], group["height"]) == (str(photos["group"]), 640, 420)
    assert [face["number"] for face in group["faces"]] == [1, 2, 3]
    assert _number(group, GROUP[0]) == 1
    for face in group["faces"]:
        assert 0.6 <= face["confidence"] <= 1
        assert len(face["landmarks"]) == 5
    assert wall["faces"] == []


def test_a_person_reads_a_line_for_each_face(
    magface: Magface, stack: Stack, photos: dict[str, Path]
) -> None:
    result = magface("faces", photos["group"], photos["wall"], "--dir", stack.folder)
    assert result.exit_code == 0
    assert result.stdout.count(str(photos["group"])) == 3
    assert "none" in result.stdout


def test_a_bad_photograph_is_named_and_the_others_are_listed(
    magface: Magface, stack: Stack, photos: dict[str, Path], tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(photos["group"].read_bytes()[:300])
    result = magface("faces", bad, photos["card"], "--dir", stack.folder)
    assert result.exit_code == 1
    assert str(photos["card"]) in result.stdout
    assert result.stderr.startswith(f"magface: 1 of 2 photographs failed; the first is {bad}: ")


def test_the_faces_are_drawn_where_they_are(
    ask: Ask, photos: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "new" / "drawn.png"
    (group,) = ask("faces", photos["group"], "--out", out)["photos"]
    changed = _changed(photograph(*GROUP), cv2.imread(str(out)))
    for face in group["faces"]:
        box = {name: round(value) for name, value in face["box"].items()}
        middle = box["y"] + box["height"] // 2
        assert changed[middle, box["x"]]
        assert changed[middle, box["x"] + box["width"]]
        assert not changed[middle, box["x"] - 5]
        for point in face["landmarks"]:
            assert changed[round(point["y"]), round(point["x"])]
    # The background between the faces stays as it is.
    assert not changed[-40:, :100].any()


def test_a_turned_photograph_is_drawn_upright(ask: Ask, tmp_path: Path) -> None:
    photo, out = tmp_path / "turned.jpg", tmp_path / "drawn.png"
    stored = cv2.rotate(photograph(*GROUP), cv2.ROTATE_90_COUNTERCLOCKWISE)
    photo.write_bytes(with_orientation(stored, 6))
    (listed,) = ask("faces", photo, "--out", out)["photos"]
    drawn = cv2.imread(str(out))
    assert drawn.shape == (420, 640, 3)
    assert _inside(listed["faces"][0], GROUP[0])
    assert 0 < _changed(photograph(*GROUP), drawn).mean() < 0.2


def _changed(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where a drawing differs from the photograph, which was compressed in between."""
    return np.abs(before.astype(int) - after).max(axis=2) > 40


def test_several_photographs_are_drawn_into_a_folder(
    ask: Ask, magface: Magface, stack: Stack, photos: dict[str, Path], tmp_path: Path
) -> None:
    other = tmp_path / "other" / "card.jpg"
    other.parent.mkdir()
    other.write_bytes(photos["card"].read_bytes())
    ask("faces", *photos.values(), other, "--out", tmp_path / "drawn")
    names = {path.name for path in (tmp_path / "drawn").iterdir()}
    assert names == {"group.png", "card.png", "card-2.png", "wall.png"}
    out = ["--out", tmp_path / "one.png"]
    result = magface("faces", *photos.values(), *out, "--dir", stack.folder)
    assert result.exit_code == 2
    assert "name a folder" in result.stderr
    result = magface("faces", photos["card"], "--out", tmp_path / "a.xyz", "--dir", stack.folder)
    assert result.exit_code == 1
    assert "a.xyz: is of no picture format" in result.stderr


def test_an_identity_card_is_found_in_a_group(ask: Ask, photos: dict[str, Path]) -> None:
    card, group = photos["card"], photos["group"]
    plain = ask("verify", card, group)
    assert plain["decision"] == "different"  # the large face is another person
    assert (plain["face_a"]["faces_found"], plain["face_b"]["faces_found"]) == (1, 3)
    assert _inside(plain["face_b"]["detected_face"], GROUP[0])
    (listed,) = ask("faces", group)["photos"]
    number = _number(listed, SMALL)
    box = _at_box(listed["faces"][number - 1])
    for choice in (("--face-b", number), ("--box-b", box)):
        answer = ask("verify", card, group, *choice, "--on-several", "refuse")
        assert answer["decision"] == "same"
        assert _inside(answer["face_b"]["detected_face"], SMALL)
        option, value = choice
        back = ask("verify", group, card, f"{option[:-1]}a", value)
        assert back["similarity"] == pytest.approx(answer["similarity"], abs=1e-5)
    other = ask("verify", card, group, "--face-b", _number(listed, GROUP[2]))
    assert other["decision"] == "different"


def test_a_person_reads_which_face_was_compared(
    magface: Magface, stack: Stack, photos: dict[str, Path]
) -> None:
    def text(*arguments: object) -> str:
        result = magface("verify", *arguments, "--dir", stack.folder)
        assert result.exit_code == 0, result.stderr
        return " ".join(result.stdout.split())

    card, group = photos["card"], photos["group"]
    assert "faces in B 3 faces found, the largest compared" in text(card, group)
    assert "faces in A 3 faces found, face 2 compared" in text(group, card, "--face-a", 2)
    assert "faces in" not in text(card, card)


def test_several_faces_are_refused_with_the_name_of_the_file(
    magface: Magface, stack: Stack, photos: dict[str, Path], pictures: list[Path]
) -> None:
    refuse = ["--on-several", "refuse", "--dir", stack.folder]
    card, group = photos["card"], photos["group"]
    for command in (["verify", card, group], ["embed", card, group]):
        result = magface(*command, *refuse)
        assert result.exit_code == 1
        assert f"{group}: shows 3 faces" in result.stderr
    label = ["--label", "same", "--annotator", "ann"]
    result = magface("feedback", "submit", card, group, *label, *refuse)
    assert result.stderr.startswith(f"magface: {group}: shows 3 faces")
    # An aligned crop has one face, so there is nothing to refuse.
    assert magface("verify", pictures[0], card, *refuse).exit_code == 0


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--face-b", 9], "group.jpg: shows 3 faces; there is no face 9"),
        (["--face-a", 1, "--box-a", "1,2,3,4"], "not both"),
        (["--box-b", "1,2,3"], "is not X,Y,WIDTH,HEIGHT"),
        (["--box-b", "1,2,3,0"], "group.jpg: box.height is 0"),
        (["--box-b", "600,400,9,9"], "group.jpg: box overlaps none"),
        (["--box-b", "1,2,3,4", "--alignment", "aligned"], "leave --alignment out"),
    ],
)
def test_a_choice_that_cannot_be_used_is_explained(
    magface: Magface, stack: Stack, photos: dict[str, Path], options: list[object], reason: str
) -> None:
    result = magface("verify", photos["card"], photos["group"], *options, "--dir", stack.folder)
    assert result.exit_code in (1, 2)
    assert reason in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.stderr


def test_embed_takes_a_chosen_face(
    ask: Ask, magface: Magface, stack: Stack, photos: dict[str, Path]
) -> None:
    (listed,) = ask("faces", photos["group"])["photos"]
    for place in GROUP:
        number = _number(listed, place)
        (face,) = ask("embed", photos["group"], "--face", number)["faces"]
        assert face["faces_found"] == 3
        assert _inside(face["detected_face"], place)
        box = _at_box(listed["faces"][number - 1])
        (again,) = ask("embed", photos["group"], "--box", box)["faces"]
        np.testing.assert_allclose(again["embedding"], face["embedding"], atol=1e-5)
    several = ["embed", photos["group"], photos["card"], "--face", 1, "--dir", stack.folder]
    assert magface(*several).exit_code == 2


def test_a_label_keeps_the_box_through_export_and_import(
    ask: Ask, photos: dict[str, Path], tmp_path: Path
) -> None:
    (listed,) = ask("faces", photos["group"])["photos"]
    box = _at_box(listed["faces"][_number(listed, SMALL) - 1])
    label = ["--label", "same", "--annotator", "boxes", "--box-b", box]
    stored = ask("feedback", "submit", photos["card"], photos["group"], *label)
    assert stored["created"]
    ask("feedback", "export", "--out", tmp_path)
    content = json.loads((tmp_path / "pairs.json").read_text())
    image = content["images"][stored["sha256_b"]]
    assert image["alignment"] == "detect"
    assert _at_box(image) == box
    assert content["images"][stored["sha256_a"]]["box"] is None
    # With another box or none, the bytes would be refused as stored differently.
    pair = [one for one in content["pairs"] if image["file"] in (one["image1"], one["image2"])]
    (tmp_path / "boxed.json").write_text(json.dumps({**content, "pairs": pair}))
    again = ask("feedback", "import", tmp_path / "boxed.json", "--annotator", "again")
    assert (again["created"], again["rejected"]) == (1, [])


def test_an_image_of_too_low_quality_is_unsure_with_the_reason(
    ask: Ask, magface: Magface, stack: Stack, pictures: list[Path]
) -> None:
    plain = ask("verify", *pictures[:2])
    assert ask("verify", *pictures[:2], "--minimum-quality", 0) == plain
    unsure = ask("verify", *pictures[:2], "--minimum-quality", 1)
    assert (unsure["decision"], plain["unsure_reason"]) == ("unsure", "")
    assert "below the minimum_quality 1" in unsure["unsure_reason"]
    assert unsure | {"decision": plain["decision"], "unsure_reason": ""} == plain
    read = magface("verify", *pictures[:2], "--minimum-quality", 1, "--dir", stack.folder)
    assert unsure["unsure_reason"] in " ".join(read.stdout.split())
    refused = magface("verify", *pictures[:2], "--minimum-quality", "nan", "--dir", stack.folder)
    assert refused.exit_code == 1
    assert "minimum_quality" in refused.stderr


def test_a_person_reads_how_many_strangers_score_as_high() -> None:
    answer = embedder_pb2.VerifyResponse(probability=0.99996, false_match_rate=0.7, kept_fmr=1e-4)
    assert match_rates(answer) == {
        "probability": "0.99996 that it is the same person",
        "strangers": "one in 1.4 strangers scores as high",
        "kept FMR": "0.0001: one in 10,000 strangers passes the threshold",
    }
    assert match_rates(embedder_pb2.VerifyResponse()) == {}
