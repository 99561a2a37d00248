"""Tests of the command line that need no service."""

import json
import os
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from magface.v1 import trainer_pb2

from cli.commands import job_progress
from cli.images import AlignmentChoice, read_image, to_image
from cli.output import to_plain
from shared.datasets.groups import read_groups
from shared.errors import InvalidInput
from shared.model.default import DEFAULT_CHECKPOINT
from tests.cli.conftest import Magface
from tests.shared.model.pictures import png_header

_HEAVY = ("torch", "cv2", "sklearn", "psycopg", "pydantic", "numpy", "rich.markdown")


def test_help_does_not_load_what_is_heavy() -> None:
    script = (
        f"import sys\nimport cli.main\nprint([name for name in {_HEAVY} if name in sys.modules])\n"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_a_stack_that_is_not_there_is_said_in_one_line(
    magface: Magface, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    result = magface("feedback", "stats", "--json")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert f"no stack is ready in {tmp_path / 'run'}" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_service_that_does_not_answer_is_named_soon(
    magface: Magface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGFACE_FEEDBACK_ADDRESS", "127.0.0.1:1")
    started = time.monotonic()
    result = magface("feedback", "stats")
    assert result.exit_code == 1
    assert result.stderr.startswith("magface: the feedback at 127.0.0.1:1: ")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "arguments",
    [
        ["verify", "missing.jpg", "missing.jpg"],
        ["feedback", "submit", __file__, __file__, "--label", "maybe", "--annotator", "a"],
        ["models", "import", __file__, "--probe", __file__, "--channel-order", "bgr"],
        ["models", "import", __file__, "--target-far", "0.01"],
        ["models", "promote", "some-version"],
        ["train", "--epochs", "0"],
        ["up", "--embedders", "0"],
        ["unheard-of"],
    ],
)
def test_wrong_usage_exits_with_2(magface: Magface, arguments: list[str]) -> None:
    result = magface(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Usage: " in result.stderr


def test_dataset_pairs_are_balanced_and_the_same_for_a_seed(
    magface: Magface, people: Path, tmp_path: Path
) -> None:
    options = ["--identities", "3", "--images", "3", "--pairs", "10"]
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        out = ["--out", tmp_path / f"{name}.json", "--seed", seed, "--json"]
        result = magface("dataset", "pairs", people, *options, *out)
        assert result.exit_code == 0
        answer = json.loads(result.stdout)
        assert (answer["genuine"], answer["impostor"], answer["identities"]) == (5, 5, 3)
    one, same, other = ((tmp_path / f"{n}.json").read_bytes() for n in ("one", "same", "other"))
    assert one == same != other


def test_more_pairs_than_there_are_is_refused_with_the_reason(
    magface: Magface, people: Path, tmp_path: Path
) -> None:
    out = tmp_path / "pairs.json"
    result = magface(
        "dataset", "pairs", people, "--identities", "2", "--pairs", "900", "--out", out
    )
    assert result.exit_code == 1
    assert "take more identities or more images" in result.stderr
    assert not out.exists()


def test_rendered_people_have_a_folder_each(magface: Magface, tmp_path: Path) -> None:
    result = magface(
        "dataset", "render", tmp_path / "p", "--people", "2", "--images", "3", "--json"
    )
    assert json.loads(result.stdout)["images"] == 6
    people = [path for path in (tmp_path / "p").iterdir() if path.is_dir()]
    assert [len(list(person.iterdir())) for person in people] == [3, 3]
    groups = read_groups(tmp_path / "p" / "groups.csv", [person.name for person in people])
    assert sorted(groups.groups) == ["person_00000", "person_00001"]
    assert groups.unusable == []


@pytest.mark.material
def test_probing_finds_the_channel_order_the_network_was_trained_with(
    magface: Magface, tmp_path: Path
) -> None:
    import cv2

    from cli.commands.evaluation.channel_order import probe_channel_order

    entries = []
    faces = Path(__file__).parents[3] / "shared" / "faces" / "lfw"
    if not faces.is_dir():
        pytest.skip("needs ../shared")
    people = [sorted(folder.iterdir())[:2] for folder in sorted(faces.iterdir())[:20]]
    for own, other in pairwise(people):
        entries.append({"image1": str(own[0]), "image2": str(own[1]), "label": 1})
        entries.append({"image1": str(own[0]), "image2": str(other[1]), "label": 0})
    (tmp_path / "pairs.json").write_text(json.dumps({"pairs": entries}))
    found = probe_channel_order(DEFAULT_CHECKPOINT, tmp_path / "pairs.json")
    assert found["channel_order"] == "bgr"
    assert found["best_accuracy"]["bgr"] > found["best_accuracy"]["rgb"] + 0.05
    strict = probe_channel_order(DEFAULT_CHECKPOINT, tmp_path / "pairs.json", target_far=1 / 19)
    measure = ("evaluate", "--pairs", tmp_path / "pairs.json", "--checkpoint", DEFAULT_CHECKPOINT)
    measured = magface(*measure, "--threshold", strict["threshold"], "--json")
    assert json.loads(measured.stdout)["fp"] <= 1
    with pytest.raises(InvalidInput, match="at least 100 impostor pairs; there are 19"):
        probe_channel_order(DEFAULT_CHECKPOINT, tmp_path / "pairs.json", target_far=0.01)

    for pair in people:
        for path in pair:
            swapped = cv2.imread(str(path))[:, :, ::-1]
            cv2.imwrite(str(tmp_path / f"{path.stem}.png"), swapped)
    for entry in entries:
        for side in ("image1", "image2"):
            entry[side] = f"{Path(str(entry[side])).stem}.png"
    (tmp_path / "swapped.json").write_text(json.dumps({"pairs": entries}))
    assert (
        probe_channel_order(DEFAULT_CHECKPOINT, tmp_path / "swapped.json")["channel_order"] == "rgb"
    )


def test_an_enum_value_of_a_newer_contract_is_shown_as_its_number() -> None:
    job = trainer_pb2.Job.FromString(bytes([12 << 3, 99]))
    assert to_plain(job)["stage"] == "99"


def test_messages_become_plain_without_protobuf_quirks() -> None:
    job = trainer_pb2.Job(job_id="j", state=trainer_pb2.JOB_STATE_QUEUED, progress=0.1)
    job.created_at.FromJsonString("2026-01-02T03:04:05.678Z")
    plain = to_plain(job)
    assert plain["state"] == "queued"
    assert plain["kind"] is None
    assert plain["progress"] == 0.1
    assert plain["created_at"] == "2026-01-02T03:04:05.678+00:00"
    assert plain["gate"] is None
    assert plain["ended_at"] is None
    verdict = trainer_pb2.GateVerdict(checks=[trainer_pb2.GateCheck(name="n", value=0.25)])
    (check,) = to_plain(verdict)["checks"]
    unset = {"passed": False, "limit": 0.0, "detail": "", "low": None, "people": 0}
    assert check == check | {"name": "n", "value": 0.25} | unset
    figures = trainer_pb2.Figures(values={"auc": 0.5}, intervals={"auc": {"low": 0.25}})
    assert to_plain(figures)["values"] == {"auc": 0.5}
    assert to_plain(figures)["intervals"] == {"auc": {"low": 0.25, "high": 0.0}}
    listing = to_plain(trainer_pb2.ListModelsResponse(serving_generation=2**40))
    assert listing["serving_generation"] == 2**40


def test_a_file_that_is_no_picture_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    claims = tmp_path / "claims.png"
    claims.write_bytes(png_header(60_000, 60_000))
    os.mkfifo(tmp_path / "pipe.jpg")
    assert to_image(read_image(claims), AlignmentChoice.AUTO).data == claims.read_bytes()
    for path in (tmp_path, tmp_path / "pipe.jpg", tmp_path / "absent.jpg"):
        with pytest.raises(InvalidInput) as caught:
            read_image(path)
        assert caught.value.field == str(path)


def test_a_watch_that_ends_because_the_trainer_is_away_says_that_the_job_goes_on(
    magface: Magface, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGFACE_TRAINER_ADDRESS", "127.0.0.1:9")
    monkeypatch.setattr(job_progress, "_LONGEST_OUTAGE_S", 0.1)
    job_id = "0b6a2f2e-0000-4000-8000-000000000000"
    result = magface("jobs", "watch", job_id)
    assert result.exit_code == 1
    assert f"follow it with `magface jobs watch {job_id}`" in result.stderr
