"""Tests of ``magface models operating-point`` and ``curve`` on a running stack."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Ask, Magface


@pytest.fixture
def serving(ask: Ask) -> Iterator[dict[str, Any]]:
    """The serving version; the operating point is removed at the end."""
    [model] = [model for model in ask("models", "list")["models"] if model["serving"]]
    yield model
    ask("models", "operating-point", "--unset", "--reason", "end of the test", "--wait")


def test_a_target_is_kept_by_every_embedder_and_said_in_answers(
    ask: Ask, serving: dict[str, Any], pictures: list[Path]
) -> None:
    points = {point["target"]: point for point in serving["operating_curve"]["points"]}
    own = ask("verify", *pictures[:2])
    assert own["threshold"] == pytest.approx(serving["threshold"], abs=1e-6)
    assert own["kept_fmr"] is None
    for target in (0.1, 0.01):
        done = ask("models", "operating-point", "--fmr", target, "--reason", "r", "--wait")
        assert done["serving"]["kept_fmr"] == target
        assert done["serving"]["threshold"] == pytest.approx(points[target]["threshold"], abs=1e-6)
        assert done["serving"]["missing_people"] == 0
        [replica] = done["replicas"]
        assert replica["generation"] == done["serving_generation"]
        answer = ask("verify", *pictures[:2])
        assert answer["threshold"] == pytest.approx(points[target]["threshold"], abs=1e-6)
        assert answer["kept_fmr"] == pytest.approx(target)
        assert answer["model_version"] == serving["model_version"]


def test_a_rate_that_is_not_resolved_is_said_with_the_people_that_it_takes(
    magface: Magface, ask: Ask, serving: dict[str, Any], stack
) -> None:
    strictest = serving["operating_curve"]["points"][-1]["target"]
    done = ask("models", "operating-point", "--fmr", 1e-6, "--reason", "r")
    assert done["serving"]["kept_fmr"] == strictest
    assert done["serving"]["missing_people"] > 100
    shown = magface("models", "operating-point", "--dir", stack.folder).stdout
    assert "not resolved" in shown
    assert f"{done['serving']['missing_people']} more people" in shown


@pytest.mark.usefixtures("serving")
def test_every_change_is_in_the_history_with_who_and_why(ask: Ask) -> None:
    first = ask("models", "operating-point", "--fmr", 0.05, "--reason", "door", "--by", "ada")
    ask(
        "models", "operating-point", "--fmr", 0.03, "--prior", 0.1, "--reason", "till", "--by", "bo"
    )
    newest, before = ask("models", "operating-point")["operating_points"][:2]
    shown = [(each["target_fmr"], each["prior"]) for each in (newest, before)]
    assert shown == [(0.03, 0.1), (0.05, 0.5)]
    assert (newest["requested_by"], newest["reason"]) == ("bo", "till")
    assert newest["serving_generation"] == first["serving_generation"] + 1


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--fmr", "0.5", "--reason", "r"), "0.1"),
        (("--fmr", "0", "--reason", "r"), "0.000001"),
        (("--fmr", "0.01"), "--reason"),
        (("--fmr", "0.01", "--unset", "--reason", "r"), "either"),
        (("--fmr", "0.01", "--prior", "1", "--reason", "r"), "prior"),
    ],
)
def test_wrong_options_are_refused_and_change_nothing(
    magface: Magface, ask: Ask, stack, options: tuple[str, ...], why: str
) -> None:
    before = ask("models", "operating-point")
    refused = magface("models", "operating-point", *options, "--dir", stack.folder)
    assert refused.exit_code != 0
    assert why in refused.stderr
    assert ask("models", "operating-point") == before


def test_the_curve_of_a_version_is_shown_with_what_is_behind_it(
    magface: Magface, serving: dict[str, Any], stack
) -> None:
    shown = magface("models", "curve", serving["model_version"], "--dir", stack.folder).stdout
    evidence = serving["operating_curve"]["impostor"]
    assert f"{evidence['pairs']} of {evidence['people']} people" in shown
    assert "0.01" in shown
    unknown = magface("models", "curve", "nothing-like-it", "--dir", stack.folder)
    assert unknown.exit_code != 0
    assert "nothing-like-it" in unknown.stderr
