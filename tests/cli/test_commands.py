"""Tests of the commands on real services."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.local.stack import Stack
from tests.cli.conftest import Ask, Magface
from tests.services.feedback.support.helpers import picture
from tests.shared.model.pictures import png_header
from tests.support.waiting import wait_until


def _labelled(folder: Path, pair: dict[str, Any]) -> tuple[frozenset[bytes], int]:
    """A pair by the contents of its images, whatever their file names are."""
    files = (folder / pair["image1"], folder / pair["image2"])
    return frozenset(file.read_bytes() for file in files), pair["label"]


def _wait_for_version(ask: Ask, pictures: list[Path], version: str) -> None:
    wait_until(lambda: ask("verify", *pictures[:2])["model_version"] == version, timeout_s=30)


def test_embeddings_are_unit_vectors_in_the_order_of_the_pictures(
    ask: Ask, pictures: list[Path]
) -> None:
    answer = ask("embed", *pictures)
    assert [face["image"] for face in answer["faces"]] == [str(path) for path in pictures]
    vectors = np.array([face["embedding"] for face in answer["faces"]])
    assert vectors.shape == (3, 512)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert all(face["magnitude"] > 0 and 0 <= face["quality"] <= 1 for face in answer["faces"])


def test_more_pictures_than_one_call_takes_are_embedded_by_one_version(
    ask: Ask, pictures: list[Path]
) -> None:
    answer = ask("embed", *(pictures * 22))
    first, again = answer["faces"][0], answer["faces"][-3]
    assert len(answer["faces"]) == 66
    np.testing.assert_allclose(first["embedding"], again["embedding"], atol=1e-5)
    assert answer["model_version"].startswith("iresnet18")


def test_verify_says_the_same_as_the_embeddings(ask: Ask, pictures: list[Path]) -> None:
    a, b, _ = pictures
    answer = ask("verify", a, b, "--embeddings")
    vectors = [np.array(answer[side]["embedding"]) for side in ("face_a", "face_b")]
    assert answer["similarity"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)
    same = answer["similarity"] >= answer["threshold"]
    assert answer["decision"] == ("same" if same else "different")
    without = ask("verify", a, a)
    assert without["similarity"] == pytest.approx(1.0, abs=1e-4)
    assert "embedding" not in without["face_a"]


def test_a_person_reads_the_decision_and_no_json(
    magface: Magface, stack: Stack, pictures: list[Path]
) -> None:
    result = magface("verify", pictures[0], pictures[0], "--dir", stack.folder)
    assert result.exit_code == 0
    assert "same" in result.stdout
    assert "{" not in result.stdout


def test_what_is_wrong_with_a_picture_is_said_with_its_name(
    magface: Magface, stack: Stack, pictures: list[Path], tmp_path: Path, large_picture: Path
) -> None:
    text = tmp_path / "text.jpg"
    text.write_text("not a picture")
    result = magface("verify", pictures[0], text, "--dir", stack.folder, "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"magface: {text}: is text, which starts with")
    assert result.stderr.count("\n") == 1
    result = magface("verify", pictures[0], large_picture, "--dir", stack.folder)
    assert result.exit_code == 1
    assert f"{large_picture}: " in result.stderr


def test_pictures_that_are_refused_do_not_stop_the_others(
    magface: Magface, stack: Stack, pictures: list[Path], tmp_path: Path
) -> None:
    bad = {"text.jpg": b"not a picture", "claims.png": png_header(60_000, 60_000), "empty": b""}
    for name, data in bad.items():
        (tmp_path / name).write_bytes(data)
    files = [tmp_path / name for name in bad]
    given = [files[0], pictures[0], files[1], files[2], pictures[1]]
    result = magface("embed", *given, "--dir", stack.folder, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert [face["image"] for face in answer["faces"]] == [str(path) for path in pictures[:2]]
    assert [one["image"] for one in answer["refused"]] == [str(path) for path in files]
    assert "3 of 5 images were refused" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_label_is_stored_once_for_one_key(ask: Ask, pictures: list[Path]) -> None:
    label = ["--label", "different", "--annotator", "ann", "--idempotency-key", "k1"]
    before = ask("feedback", "stats")["labels"]
    first = ask("feedback", "submit", pictures[0], pictures[2], *label)
    second = ask("feedback", "submit", pictures[0], pictures[2], *label)
    assert (first["created"], second["created"]) == (True, False)
    assert first["label_id"] == second["label_id"]
    assert ask("feedback", "stats")["labels"] == before + 1


def test_feedback_comes_back_as_it_was_imported(
    ask: Ask, magface: Magface, people: Path, tmp_path: Path
) -> None:
    file = tmp_path / "pairs.json"
    size = ["--identities", 4, "--images", 3, "--pairs", 12]
    assert magface("dataset", "pairs", people, *size, "--out", file).exit_code == 0
    first = ask("feedback", "import", file, "--annotator", "bulk")
    nothing = {"rejected": [], "named_otherwise": []}
    assert first == {"pairs": 12, "created": 12, "known": 0} | nothing
    again = ask("feedback", "import", file, "--annotator", "bulk")
    assert again == {"pairs": 12, "created": 0, "known": 12} | nothing

    exported = ask("feedback", "export", "--out", tmp_path / "export")
    content = json.loads((tmp_path / "export" / "pairs.json").read_text())
    assert exported["pairs"] == len(content["pairs"]) >= 12
    wanted = {_labelled(file.parent, pair) for pair in json.loads(file.read_text())["pairs"]}
    assert wanted <= {_labelled(tmp_path / "export", pair) for pair in content["pairs"]}

    later = ask(
        "feedback", "export", "--out", tmp_path / "later", "--snapshot", exported["snapshot_id"]
    )
    assert later == exported


def test_an_export_as_parquet_holds_what_the_one_as_json_does(
    ask: Ask, magface: Magface, people: Path, tmp_path: Path
) -> None:
    from pyarrow.parquet import read_table

    pairs = ["dataset", "pairs", people, "--identities", 4, "--images", 3, "--pairs", 12]
    assert magface(*pairs, "--out", tmp_path / "pairs.json").exit_code == 0
    ask("feedback", "import", tmp_path / "pairs.json", "--annotator", "tabular")
    exported = ask("feedback", "export", "--out", tmp_path / "json")
    again = ["--snapshot", exported["snapshot_id"], "--format", "parquet"]
    assert ask("feedback", "export", "--out", tmp_path / "parquet", *again) == exported
    content = json.loads((tmp_path / "json" / "pairs.json").read_text())
    table = read_table(tmp_path / "parquet" / "pairs.parquet")
    assert table.schema.metadata[b"snapshot_id"].decode() == exported["snapshot_id"]
    rows = table.to_pylist()
    for row, pair in zip(rows, content["pairs"], strict=True):
        assert row == pair | {"confidence": pytest.approx(pair["confidence"])}
        assert (tmp_path / "parquet" / row["image1"]).exists()
    images = read_table(tmp_path / "parquet" / "images.parquet").to_pylist()
    assert {one.pop("sha256"): one for one in images} == content["images"]


def test_what_is_erased_is_not_exported_again_and_is_on_the_trail(
    ask: Ask, magface: Magface, tmp_path: Path, stack: Stack
) -> None:
    label = ["--label", "same", "--annotator", "erased", "--alignment", "aligned"]
    unlike = [tmp_path / name for name in ("a.png", "b.png")]
    for path, number in zip(unlike, (5001, 5002), strict=True):
        path.write_bytes(picture(number))
    stored = ask("feedback", "submit", *unlike, *label)
    before = ask("feedback", "export", "--out", tmp_path / "before")
    erased = ask(
        "feedback", "erase-image", stored["sha256_a"], "--by", "dpo", "--request", "ticket-9"
    )
    assert (erased["images"], erased["pairs"], erased["labels"]) == (1, 1, 1)
    assert erased["snapshot_ids"].count(before["snapshot_id"]) == 1
    again = ["--snapshot", before["snapshot_id"]]
    after = ask("feedback", "export", "--out", tmp_path / "after", *again)
    assert after["pairs"] == before["pairs"] - 1
    assert stored["sha256_a"] not in (tmp_path / "after" / "pairs.json").read_text()
    nobody = magface("feedback", "erase-subject", "nobody", "--by", "dpo", "--dir", stack.folder)
    assert nobody.exit_code == 1
    assert "no stored image has this name" in nobody.stderr
    trail = ask("feedback", "audit")["entries"]
    assert [one["action"] for one in trail[:1]] == ["erase_image"]
    assert trail[0]["request_id"] == "ticket-9"
    shown = magface("feedback", "audit", "--dir", stack.folder)
    assert "ticket-9" in shown.stdout


def test_people_known_from_a_pairs_file_only_are_erased_by_any_of_their_names(
    ask: Ask, tmp_path: Path
) -> None:
    for number in range(5010, 5014):
        (tmp_path / f"{number}.png").write_bytes(picture(number))
    entries = [
        {"image1": "5010.png", "image2": "5011.png", "label": 1, "identity1": "Zoe\u0308 Roe"},
        {"image1": "5011.png", "image2": "5012.png", "label": 0, "identity2": "Max Roe"},
        {"image1": "5012.png", "image2": "5013.png", "label": 0, "identity1": "Maximilian"},
    ]
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": entries}))
    add = ("feedback", "import", tmp_path / "pairs.json", "--alignment", "aligned")
    first = ask(*add, "--annotator", "Jose\u0301")
    assert (first["created"], first["rejected"]) == (3, [])
    assert [Path(name).name for name in first["named_otherwise"]] == ["5012.png"]
    assert ask(*add, "--annotator", " Jos\u00e9 ")["known"] == 3
    for name in ("Zo\u00eb  Roe", "Max Roe"):
        assert ask("feedback", "erase-subject", name, "--by", "dpo")["images"] == 1


def test_a_refused_pair_does_not_keep_the_others_out(
    magface: Magface, stack: Stack, people: Path, tmp_path: Path
) -> None:
    files = [path for path in sorted(people.rglob("*.*")) if path.is_file()][:2]
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(files[0].read_bytes()[:200])
    pairs = [(files[0], broken), (files[0], files[1])]
    entries = [{"image1": str(a), "image2": str(b), "label": 1} for a, b in pairs]
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": entries}))
    result = magface(
        "feedback",
        "import",
        tmp_path / "pairs.json",
        "--annotator",
        "half",
        "--dir",
        stack.folder,
        "--json",
    )
    answer = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (answer["created"], [pair["pair"] for pair in answer["rejected"]]) == (1, [0])
    assert str(broken) in answer["rejected"][0]["why"]
    assert "the others are stored" in result.stderr


def test_pairs_are_listed_by_their_consensus(ask: Ask, pictures: list[Path]) -> None:
    ask("feedback", "submit", *pictures[:2], "--label", "unsure", "--annotator", "ann")
    listed = ask("feedback", "list", "--consensus", "different")["pairs"]
    assert listed
    assert {pair["consensus"] for pair in listed} == {"different"}
    assert len(ask("feedback", "list", "--limit", 1)["pairs"]) == 1


def test_the_bundled_model_serves_and_cannot_be_rolled_back(
    ask: Ask, magface: Magface, stack: Stack
) -> None:
    models = ask("models", "list")["models"]
    assert [model["serving"] for model in models].count(True) == 1
    result = magface("models", "rollback", "--reason", "try", "--dir", stack.folder)
    assert result.exit_code == 1
    assert result.stderr.startswith("magface: ")


def test_an_imported_model_serves_once_promoted_and_no_longer_once_rolled_back(
    ask: Ask, pictures: list[Path]
) -> None:
    from shared.model.default import DEFAULT_CHECKPOINT

    before = ask("verify", *pictures[:2])["model_version"]
    imported = ask(
        "models", "import", DEFAULT_CHECKPOINT, "--channel-order", "rgb", "--threshold", 0.3
    )
    version = imported["model_version"]
    promoted = ask("models", "promote", version, "--reason", "to see it", "--override-gate")
    assert promoted["model_version"] == version
    _wait_for_version(ask, pictures, version)
    assert ask("verify", *pictures[:2])["threshold"] == 0.3
    for command in (["verify", *pictures[:2]], ["embed", *(pictures * 22)]):
        assert ask(*command, "--model-version", before)["model_version"] == before
    rolled_back = ask("models", "rollback", "--reason", "seen it")
    assert rolled_back["serving_generation"] == promoted["serving_generation"] + 1
    _wait_for_version(ask, pictures, before)


def test_jobs_tell_how_they_went(ask: Ask) -> None:
    listed = ask("jobs", "list", "--limit", 1)["jobs"]
    job_id = listed[0]["job_id"]
    assert ask("jobs", "show", job_id)["job"] == listed[0]
    watched = ask("jobs", "watch", job_id)
    assert watched["job"]["state"] == "succeeded"
    assert watched["events"][-1]["job"]["progress"] == 1.0


def test_an_import_without_reference_faces_asks_for_some(ask: Ask) -> None:
    message = ask("jobs", "list", "--limit", 1000)["jobs"][-1]["message"]
    assert "measured on 256 reference faces of 64 people that are rendered" in message
    assert "set MAGFACE_REFERENCE_FACES of the trainer to a folder of real faces" in message


def test_jobs_show_their_stages(ask: Ask, magface: Magface, stack: Stack) -> None:
    job = ask("jobs", "list", "--limit", 1000)["jobs"][-1]
    wanted = ["queued", "starting", "loading_model", "calibrating"]
    wanted += ["exporting", "publishing", "promoting"]
    assert [start["stage"] for start in job["stages"]] == wanted
    assert job["stage"] == "promoting"
    moments = [start["started_at"] for start in job["stages"]]
    assert moments == sorted(moments)
    watched_stages = [
        event["job"]["stage"] for event in ask("jobs", "watch", job["job_id"])["events"]
    ]
    assert list(dict.fromkeys(watched_stages)) == wanted

    watched = magface("jobs", "watch", job["job_id"], "--dir", stack.folder).stdout
    assert "loading model reading the checkpoint" in watched
    shown = magface("jobs", "show", job["job_id"], "--dir", stack.folder).stdout
    names = [name.replace("_", " ") for name in wanted]
    rows = [name for line in shown.splitlines() for name in names if line.startswith(f"{name}  ")]
    assert rows == names
    assert "promoting" in magface("jobs", "list", "--dir", stack.folder).stdout


def test_an_unknown_job_is_named(magface: Magface, stack: Stack) -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    for command in ("show", "watch", "cancel"):
        result = magface("jobs", command, unknown, "--dir", stack.folder)
        assert result.exit_code == 1
        assert unknown in result.stderr


def test_services_are_found_by_the_environment(
    magface: Magface, stack: Stack, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGFACE_FEEDBACK_ADDRESS", stack.feedback.address)
    assert magface("feedback", "stats").exit_code == 0
    assert "set MAGFACE_TRAINER_ADDRESS" in magface("models", "list").stderr
