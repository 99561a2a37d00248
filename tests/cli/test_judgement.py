"""Tests of ``magface models judge``."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli.rendering.renderer import write_people
from deploy.local.stack import Stack
from tests.cli.conftest import Ask, Magface
from tests.support.seaweedfs import SeaweedServer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, whose feedback is that of this module."""
    with Stack(tmp_path_factory.mktemp("cli") / "run", object_store=SeaweedServer) as stack:
        yield stack


def import_labels(ask: Ask, magface: Magface, folder: Path, seed: int) -> None:
    """Label one genuine pair of each of 60 rendered people; each seed gives other people."""
    write_people(folder / "people", 60, 2, seed)
    size = ("--identities", 60, "--images", 2, "--pairs", 120)
    made = magface("dataset", "pairs", folder / "people", "--out", folder / "pairs.json", *size)
    assert made.exit_code == 0, made.stderr
    ask("feedback", "import", folder / "pairs.json", "--annotator", "ada")


def evidence(gate: dict[str, Any]) -> int:
    """People that the version was judged on."""
    (check,) = [check for check in gate["checks"] if check["name"] == "heldout_people"]
    return int(check["value"])


def test_a_candidate_is_judged_on_people_labelled_later(
    ask: Ask, magface: Magface, stack: Stack, tmp_path: Path
) -> None:
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
    import_labels(ask, magface, tmp_path / "1", 1)
    trained = ask("train", "--epochs", 1, "--no-promotion", "--wait")["job"]
    assert trained["state"] == "succeeded", trained
    version = trained["model_version"]
    before = evidence(trained["gate"])

    import_labels(ask, magface, tmp_path / "2", 2)
    judged = ask("models", "judge", version)["job"]
    assert judged["state"] == "succeeded", judged
    # Those who were labelled later, but for labels that both versions find unlikely.
    assert before + 45 < evidence(judged["gate"]) <= before + 60
    (shown,) = [m for m in ask("models", "list")["models"] if m["model_version"] == version]
    assert shown["gate"] == judged["gate"]
    # The training asked for no promotion, whatever the gate says.
    assert ask("models", "rollout")["model_version"] != version

    parent = shown["parent_version"]
    refused = magface("models", "judge", parent, "--dir", stack.folder)
    assert refused.exit_code == 1
    assert parent in refused.stderr
