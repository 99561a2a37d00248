"""Tests of ``magface evaluate`` and ``magface dataset``."""

import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from cli.rendering.renderer import write_people
from deploy.local.stack import Stack
from shared.datasets.pairs_json import read_pairs_json
from shared.model.default import DEFAULT_CHECKPOINT
from tests.cli.conftest import Ask, Magface
from tests.support.waiting import wait_until

FIGURES = (
    *("accuracy", "precision", "recall", "tp", "tn", "fp", "fn", "threshold", "best_accuracy"),
    *("best_threshold", "auc", "eer", "tar_at_far", "images", "pairs", "images_per_second"),
)


def evaluate(magface: Magface, people: Path, *more: object) -> dict[str, object]:
    result = magface("evaluate", "--pairs", people, "--sample", 20, "--json", *more)
    assert result.exit_code == 0, result.stderr
    answer = json.loads(result.stdout)
    assert isinstance(answer, dict)
    return answer


def test_a_checkpoint_is_measured_without_any_service(magface: Magface, people: Path) -> None:
    answer = evaluate(magface, people, "--checkpoint", DEFAULT_CHECKPOINT)
    assert set(FIGURES) <= set(answer)
    assert answer["pairs"] == 20
    assert answer["threshold"] == 0.4
    assert "against" not in answer


def test_the_epsilon_of_a_checkpoint_is_honoured(magface: Magface, people: Path) -> None:
    magnitudes = [
        evaluate(magface, people, "--checkpoint", DEFAULT_CHECKPOINT, *options)["mean_magnitude"]
        for options in ((), ("--eps", 2e-5), ("--eps", 1e-2))
    ]
    assert magnitudes[0] == magnitudes[1] != magnitudes[2]


def test_unusable_images_are_named_and_left_out(
    magface: Magface, people: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "people"
    shutil.copytree(people, folder)
    pictures = sorted(path for path in folder.rglob("*.*") if path.suffix in {".png", ".jpg"})
    pictures[0].write_bytes(b"no picture")
    (pictures[1].parent / "dangling.jpg").symlink_to(tmp_path / "absent.jpg")
    answer = evaluate(
        magface, folder, "--checkpoint", DEFAULT_CHECKPOINT, "--against", DEFAULT_CHECKPOINT
    )
    left_out = answer["left_out"]
    assert isinstance(left_out, list)
    named = [Path(one["image"]).name for one in left_out]
    assert named == ["dangling.jpg", pictures[0].name]
    assert isinstance(answer["pairs"], int)
    assert isinstance(answer["pairs_left_out"], int)
    assert answer["pairs_left_out"] >= 1
    assert answer["pairs"] + answer["pairs_left_out"] == 20
    made = magface(
        "dataset",
        "pairs",
        folder,
        "--out",
        tmp_path / "pairs.json",
        "--json",
        "--identities",
        4,
        "--pairs",
        16,
        "--hard",
        0.5,
    )
    assert made.exit_code == 0, made.stderr
    assert pictures[0].name in made.stderr
    assert pictures[0] not in read_pairs_json(tmp_path / "pairs.json").images


def test_two_models_are_compared_and_the_results_written(
    magface: Magface, people: Path, tmp_path: Path
) -> None:
    models = ("--checkpoint", DEFAULT_CHECKPOINT, "--against", DEFAULT_CHECKPOINT)
    answer = evaluate(magface, people, *models, "--threshold", "0.2", "--out", tmp_path / "out")
    against = answer["against"]
    assert isinstance(against, dict)
    assert against["mcnemar"] == {"fixed": 0, "broken": 0, "p_value": 1.0}
    assert against["accuracy"] == answer["accuracy"]
    assert against["threshold"] == answer["threshold"] == 0.2
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {
        *("evaluation.json", "error_summary.json", "report.html"),
        *("false_positives", "false_negatives"),
    }
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == answer
    summary = json.loads((tmp_path / "out" / "error_summary.json").read_text())
    assert summary["false_positives"] == answer["fp"]


def grouped(people: Path, folder: Path, rows: str) -> Path:
    """Copy a folder of people, and write their groups."""
    shutil.copytree(people, folder)
    (folder / "groups.csv").write_text(f"identity,group\n{rows}")
    return folder


def test_error_rates_are_given_by_group(magface: Magface, people: Path, tmp_path: Path) -> None:
    rows = "person_00000,a\nperson_00001,a\nperson_00002,b\nnobody,b\n"
    folder = grouped(people, tmp_path / "people", rows)
    models = ("--checkpoint", DEFAULT_CHECKPOINT, "--against", DEFAULT_CHECKPOINT)
    answer = evaluate(magface, folder, *models, "--groups", "--out", tmp_path / "out")
    groups = answer["groups"]
    assert isinstance(groups, dict)
    assert groups["threshold"] == answer["threshold"]
    first, second = groups["groups"]
    assert (first["name"], second["name"]) == ("a", "b")
    # Two people with three images each; pairs within the group only.
    assert first["fnmr"]["evidence"] == {"pairs": 6, "people": 2}
    assert first["fmr"]["evidence"] == {"pairs": 9, "people": 2}
    assert second["fnmr"]["evidence"] == {"pairs": 3, "people": 1}
    assert second["fmr"] == {"rate": None, "evidence": {"pairs": 0, "people": 0}, "enough": False}
    assert first["fnmr"]["rate"]["low"] <= first["fnmr"]["rate"]["value"]
    assert groups["fnmr_inequity"] is None
    against = answer["against"]
    assert isinstance(against, dict)
    assert against["groups"] == groups
    assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == answer
    assert "By group" in (tmp_path / "out" / "report.html").read_text("utf-8")
    shown = magface("evaluate", "--pairs", folder, "--sample", 20, "--groups", *models)
    assert "'nobody' (line 5)" in shown.stderr
    assert "9 pairs of 2 people, too few to compare" in shown.stdout
    assert "FNMR, worst group over geometric mean" in shown.stdout


def test_groups_can_be_in_another_file_and_of_a_pair_file(
    magface: Magface, people: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.json"
    options = ("--identities", 4, "--pairs", 16)
    assert magface("dataset", "pairs", people, "--out", pairs, *options).exit_code == 0
    (tmp_path / "mine.csv").write_text("identity;group\nperson_00000;a\nperson_00001;a\n")
    for source in (pairs, people):
        answer = evaluate(
            magface, source, "--checkpoint", DEFAULT_CHECKPOINT, "--groups-file",
            tmp_path / "mine.csv",
        )  # fmt: skip
        assert isinstance(answer["groups"], dict)
        assert [group["name"] for group in answer["groups"]["groups"]] == ["a"]


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("person_00000,a\nperson_00000,b\n", "groups.csv: line 3"),
        ("someone,a\n", "puts none of these people into a group"),
        (None, "groups.csv: cannot be read: No such file"),
    ],
)
def test_groups_that_cannot_be_used_are_refused(
    magface: Magface, people: Path, tmp_path: Path, rows: str | None, error: str
) -> None:
    folder = people if rows is None else grouped(people, tmp_path / "people", rows)
    options = ("--sample", 20, "--checkpoint", DEFAULT_CHECKPOINT, "--groups")
    result = magface("evaluate", "--pairs", folder, *options)
    assert result.exit_code == 1
    assert error in result.stderr


def test_groups_need_the_names_of_the_people(
    magface: Magface, people: Path, tmp_path: Path
) -> None:
    first, second = sorted((people / "person_00000").iterdir())[:2]
    pairs = tmp_path / "pairs.json"
    pairs.write_text(
        json.dumps({"pairs": [{"image1": str(first), "image2": str(second), "label": 1}]})
    )
    (tmp_path / "mine.csv").write_text("identity,group\nperson_00000,a\n")
    model = ("--checkpoint", DEFAULT_CHECKPOINT)
    unnamed = magface("evaluate", "--pairs", pairs, *model, "--groups-file", tmp_path / "mine.csv")
    assert unnamed.exit_code == 1
    assert "does not name the person on each image" in unnamed.stderr
    no_folder = magface("evaluate", "--pairs", pairs, *model, "--groups")
    assert no_folder.exit_code == 1
    assert "use --groups-file" in no_folder.stderr


def test_a_version_is_measured_at_its_own_threshold(ask: Ask, people: Path) -> None:
    [serving] = [model for model in ask("models", "list")["models"] if model["serving"]]
    answer = ask("evaluate", "--pairs", people, "--sample", 20, "--against", DEFAULT_CHECKPOINT)
    assert answer["model"] == serving["model_version"]
    assert answer["threshold"] == serving["threshold"]
    assert answer["against"]["model"] == str(DEFAULT_CHECKPOINT)
    # The same network in another engine; only the thresholds differ.
    assert answer["auc"] == answer["against"]["auc"]


def test_the_trainer_measures_on_the_feedback_and_keeps_what_it_found(
    ask: Ask, magface: Magface, stack: Stack, people: Path, tmp_path: Path
) -> None:
    pairs = tmp_path / "pairs.json"
    made = magface("dataset", "pairs", people, "--out", pairs, "--identities", 4, "--pairs", 16)
    assert made.exit_code == 0
    ask("feedback", "import", pairs, "--annotator", "ann")
    page = tmp_path / "pages" / "report.html"
    answer = ask("models", "evaluate", "--report", page)
    evaluation = answer["evaluation"]
    assert answer["job"]["kind"] == "evaluate"
    assert evaluation["job_id"] == answer["job"]["job_id"]
    figures = evaluation["figures"]
    counted = sum(figures[name] for name in ("tp", "tn", "fp", "fn"))
    assert counted == figures["genuine_pairs"] + figures["impostor_pairs"] >= 16
    right = figures["tp"] + figures["tn"]
    assert figures["values"]["accuracy"] == pytest.approx(right / counted)
    assert evaluation["against"] is None
    version = answer["job"]["model_version"]
    assert version in page.read_text("utf-8")

    again = ask("models", "evaluate", version, "--snapshot", evaluation["data_snapshot"])
    assert again["evaluation"]["figures"] == figures
    listed = ask("models", "evaluations", version, "--limit", 2)["evaluations"]
    assert listed == [again["evaluation"], evaluation]
    assert magface("models", "evaluations", "--dir", stack.folder).exit_code == 0
    fetched = ask("models", "report", answer["job"]["job_id"], "--out", tmp_path / "again.html")
    assert (tmp_path / "again.html").read_bytes() == page.read_bytes()
    assert fetched["bytes"] == page.stat().st_size


def test_the_environment_names_the_object_store(
    magface: Magface, stack: Stack, people: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MAGFACE_S3_ENDPOINT", "127.0.0.1:1")
    version = ("evaluate", "--pairs", people, "--sample", "20", "--model", "some-version")
    result = magface(*version)
    assert "MAGFACE_S3_ACCESS_KEY" in result.stderr
    monkeypatch.setenv("MAGFACE_S3_ACCESS_KEY", "key")
    monkeypatch.setenv("MAGFACE_S3_SECRET_KEY", "secret")
    assert "127.0.0.1:1" in magface(*version).stderr
    # --dir takes precedence.
    result = magface(*version, "--dir", stack.folder)
    assert "some-version" in result.stderr
    assert "127.0.0.1:1" not in result.stderr


def test_one_model_is_measured_at_a_time(magface: Magface, people: Path) -> None:
    both = ("--model", "a-version", "--checkpoint", DEFAULT_CHECKPOINT)
    result = magface("evaluate", "--pairs", people, *both)
    assert result.exit_code == 1
    assert "not both" in result.stderr


def is_embedding(pid: int) -> bool:
    """Whether a process has decoding threads: only those have a lower priority."""
    nices = set()
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):  # the thread has ended
            nices.add((task / "stat").read_text().rpartition(")")[2].split()[16])
    return len(nices) > 1


@pytest.mark.slow
def test_an_interrupt_ends_it_at_once_and_without_a_traceback(tmp_path: Path) -> None:
    write_people(tmp_path / "people", 60, 8, 0)
    command = [sys.executable, "-m", "cli", "evaluate", "--pairs", str(tmp_path / "people")]
    process = subprocess.Popen(
        [*command, "--checkpoint", str(DEFAULT_CHECKPOINT), "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    wait_until(lambda: is_embedding(process.pid), 60)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert output == errors == ""
    assert not (tmp_path / "out").exists()


def test_hard_pairs_are_those_a_model_confuses(
    magface: Magface, people: Path, tmp_path: Path
) -> None:
    accuracy = {}
    for name, share in (("plain", 0), ("hard", 1)):
        options = ("--identities", 4, "--images", 3, "--pairs", 12, "--hard", share)
        made = magface("dataset", "pairs", people, "--out", tmp_path / f"{name}.json", *options)
        assert made.exit_code == 0, made.stderr
        file = tmp_path / f"{name}.json"
        answer = evaluate(magface, file, "--checkpoint", DEFAULT_CHECKPOINT)
        accuracy[name] = answer["auc"]
    assert accuracy["hard"] < accuracy["plain"]


def test_splits_share_nobody(magface: Magface, people: Path, tmp_path: Path) -> None:
    wanted = ("--split", "train=2:6", "--split", "test=2:4", "--images", "3")
    result = magface("dataset", "splits", people, "--out", tmp_path / "sets", *wanted, "--json")
    assert result.exit_code == 0, result.stderr
    made = {split["split"]: split for split in json.loads(result.stdout)["splits"]}
    assert (made["train"]["pairs"], made["test"]["pairs"]) == (6, 4)
    sets = [read_pairs_json(Path(made[name]["file"])) for name in ("train", "test")]
    train, test = (set(pair_set.identities or ()) for pair_set in sets)
    assert len(train) == len(test) == 2
    assert not train & test


@pytest.mark.parametrize("split", ["train", "train=2", "train=two:4", "=2:4", "../x=2:4"])
def test_a_split_that_cannot_be_read_is_wrong_usage(
    magface: Magface, people: Path, tmp_path: Path, split: str
) -> None:
    result = magface("dataset", "splits", people, "--out", tmp_path, "--split", split)
    assert result.exit_code == 2
    assert "NAME=PEOPLE:PAIRS" in result.stderr
