"""Tests of ``magface models shadow``."""

from pathlib import Path

import pytest

from deploy.local.stack import Stack
from shared.model.default import DEFAULT_CHECKPOINT
from tests.cli.conftest import Ask, Magface
from tests.support.waiting import wait_until

_THRESHOLD = 0.999


@pytest.mark.slow
def test_a_version_that_nobody_promoted_is_measured_on_live_calls_until_it_is_stopped(
    ask: Ask, magface: Magface, stack: Stack, pictures: list[Path]
) -> None:
    before = ask("models", "list")["serving_generation"]
    # The serving network, with a threshold that changes its decision about the two images.
    imported = ask("models", "import", DEFAULT_CHECKPOINT, "--threshold", _THRESHOLD)
    candidate = imported["model_version"]
    assert ask("models", "rollout")["shadow"] is None
    assert ask("models", "shadow", candidate) == {"model_version": candidate}
    answers = []

    def evaluated() -> bool:
        answers.append(ask("verify", *pictures[:2]))
        shadow = ask("models", "rollout")["shadow"]
        return shadow is not None and shadow["pairs"] > 0

    wait_until(evaluated, timeout_s=60)
    rollout = ask("models", "rollout")
    shadow, [replica] = rollout["shadow"], rollout["replicas"]
    assert shadow["model_version"] == replica["shadow"]["model_version"] == candidate
    assert 0 < shadow["pairs"] <= len(answers)
    same = answers[0]["decision"] == "same"
    assert shadow["agreement"] == float(same == (answers[0]["similarity"] >= _THRESHOLD))
    assert shadow["similarity_shift"] == pytest.approx(0, abs=1e-3)
    assert shadow["error"] == ""
    shown = magface("models", "rollout", "--dir", stack.folder).stdout
    assert candidate in shown
    assert "agreement" in shown

    assert ask("models", "shadow", "--stop") == {"model_version": ""}
    wait_until(lambda: ask("models", "rollout")["shadow"] is None, timeout_s=20)
    assert {answer["model_version"] for answer in answers} == {rollout["model_version"]}
    assert ask("models", "list")["serving_generation"] == before


def test_only_a_version_that_exists_and_does_not_serve_can_be_tried(
    ask: Ask, magface: Magface, stack: Stack
) -> None:
    serving = ask("models", "rollout")["model_version"]
    for version, message in ((serving, f"{serving} serves"), ("v9", "no model version v9")):
        refused = magface("models", "shadow", version, "--dir", stack.folder)
        assert refused.exit_code == 1
        assert message in refused.stderr
    assert ask("models", "rollout")["shadow"] is None


@pytest.mark.parametrize("arguments", [[], ["some-version", "--stop"]])
def test_either_a_version_or_stop_is_to_be_given(magface: Magface, arguments: list[str]) -> None:
    refused = magface("models", "shadow", *arguments)
    assert refused.exit_code == 2
    assert "give either a version or --stop" in refused.stderr
