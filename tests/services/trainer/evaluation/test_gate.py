"""The gate: what each check refuses, and when there is not enough evidence."""

import json
import math
from dataclasses import replace

import pytest

from services.trainer.evaluation.candidate_figures import (
    CandidateFigures,
    Change,
    FalseMatches,
    GainWithinChance,
    JudgedPoint,
)
from services.trainer.evaluation.gate import (
    GateCheck,
    GateOutcome,
    GateVerdict,
    decide,
    is_compatible,
    verdict_from_json,
    verdict_to_json,
)
from shared.model.operating_curve import Rate

MATCHES = FalseMatches(
    parent=0.0010,
    child=Rate(value=0.0010, low=0.0006, high=0.0015),
    rise_low=-0.0004,
    rise_high=0.0004,
    people=60,
    pairs=20_000,
)
AT_POINT = CandidateFigures(
    point=JudgedPoint(0.001, 0.001, 0.001),
    separation=Change(0.87, 0.93, people=40, pairs=90),
    errors=Change(0.20, 0.12, -0.11, -0.05, people=40, pairs=90),
    fnmr=Change(0.50, 0.42, -0.12, -0.04, people=40, pairs=90),
    heldout_matches=MATCHES,
    reference_matches=MATCHES,
    reference=Change(0.070, 0.072, -0.01, 0.014, people=50, pairs=100),
    compatibility=Change(0.50, 0.46, -0.08, 0.0, people=40, pairs=90),
    mixed_matches=MATCHES,
    magnitude_ratio=1.05,
    magnitude_order=0.93,
)
EQUAL_WEIGHTS = replace(
    AT_POINT,
    point=None,
    fnmr=None,
    separation=Change(0.87, 0.93, 0.04, 0.08, people=40, pairs=90),
    reference=Change(0.070, 0.072, people=50, pairs=100),
    compatibility=Change(0.20, 0.17, people=40, pairs=20_000),
)
BOTH = pytest.mark.parametrize("good", [AT_POINT, EQUAL_WEIGHTS], ids=["target", "no target"])


def refused(verdict: GateVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def check_named(verdict: GateVerdict, name: str) -> GateCheck:
    return next(check for check in verdict.checks if check.name == name)


def matches(value: float, low: float, high: float, rise_low: float) -> FalseMatches:
    return replace(MATCHES, child=Rate(value=value, low=low, high=high), rise_low=rise_low)


MORE_MATCHES = matches(0.0030, 0.0018, 0.0045, 0.0009)


@BOTH
def test_a_better_candidate_passes(good: CandidateFigures) -> None:
    verdict = decide(good, self_check=True)
    assert verdict.passed, refused(verdict)
    assert verdict.missing == ""
    assert verdict.target_fmr == (good.point.target_fmr if good.point else None)


@pytest.mark.parametrize(
    ("good", "change", "name"),
    [
        (AT_POINT, {"fnmr": Change(0.50, 0.51, -0.02, 0.04, 40, 90)}, "heldout_gain"),
        (EQUAL_WEIGHTS, {"separation": Change(0.9, 0.89, -0.02, 0.01, 40, 90)}, "heldout_gain"),
        (EQUAL_WEIGHTS, {"errors": Change(0.20, 0.21, 0.002, 0.02)}, "heldout_errors"),
        (AT_POINT, {"reference": Change(0.07, 0.12, 0.02, 0.08, 50, 100)}, "reference_loss"),
        (EQUAL_WEIGHTS, {"reference": Change(0.07, 0.09)}, "reference_loss"),
        (AT_POINT, {"compatibility": Change(0.5, 0.6, 0.05, 0.15, 40)}, "compatibility_loss"),
        (EQUAL_WEIGHTS, {"compatibility": Change(0.20, 0.23)}, "compatibility_loss"),
        (AT_POINT, {"mixed_matches": MORE_MATCHES}, "compatibility_fmr"),
        (AT_POINT, {"heldout_matches": MORE_MATCHES}, "heldout_fmr"),
        (AT_POINT, {"reference_matches": MORE_MATCHES}, "reference_fmr"),
        (EQUAL_WEIGHTS, {"heldout_matches": MORE_MATCHES}, "heldout_fmr"),
        (EQUAL_WEIGHTS, {"reference_matches": MORE_MATCHES}, "reference_fmr"),
        (AT_POINT, {"magnitude_ratio": 2.6}, "magnitude_change"),
        (AT_POINT, {"magnitude_ratio": 0.4}, "magnitude_change"),
        (AT_POINT, {"magnitude_order": 0.3}, "magnitude_order"),
    ],
)
def test_each_bad_figure_alone_refuses(
    good: CandidateFigures, change: dict[str, object], name: str
) -> None:
    verdict = decide(replace(good, **change), self_check=True)  # type: ignore[arg-type]
    assert verdict.outcome is GateOutcome.FAILED
    assert refused(verdict) == {name}


@BOTH
def test_a_failed_self_check_refuses(good: CandidateFigures) -> None:
    verdict = decide(good, self_check=False)
    assert verdict.outcome is GateOutcome.FAILED
    assert refused(verdict) == {"self_check"}


@BOTH
def test_a_further_check_can_refuse(good: CandidateFigures) -> None:
    worst = GateCheck("worst_group", False, 0.2, 0.1, "the worst group got worse")
    verdict = decide(good, self_check=True, further=[worst])
    assert verdict.outcome is GateOutcome.FAILED
    assert refused(verdict) == {"worst_group"}


NO_NUMBER = Change(0.1, math.nan, math.nan, math.nan, 40, 90)


@pytest.mark.parametrize(
    ("good", "change"),
    [
        (AT_POINT, {"fnmr": NO_NUMBER}),
        (AT_POINT, {"reference": NO_NUMBER}),
        (AT_POINT, {"compatibility": NO_NUMBER}),
        (EQUAL_WEIGHTS, {"separation": NO_NUMBER}),
        (EQUAL_WEIGHTS, {"errors": NO_NUMBER}),
        (EQUAL_WEIGHTS, {"reference": NO_NUMBER}),
        (EQUAL_WEIGHTS, {"heldout_matches": replace(MATCHES, rise_low=math.nan)}),
        (EQUAL_WEIGHTS, {"magnitude_ratio": math.nan}),
        (AT_POINT, {"magnitude_order": math.nan}),
    ],
)
def test_a_figure_that_is_no_number_fails(
    good: CandidateFigures, change: dict[str, object]
) -> None:
    verdict = decide(replace(good, **change), self_check=True)  # type: ignore[arg-type]
    assert verdict.outcome is GateOutcome.FAILED


def test_a_gain_that_may_be_chance_is_not_enough_evidence() -> None:
    # The interval would need to be half as wide: four times the people, 30 more for each ten.
    unsure = replace(AT_POINT, fnmr=Change(0.50, 0.48, -0.06, 0.02, 40, 90))
    verdict = decide(unsure, self_check=True)
    assert verdict.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE
    assert not verdict.passed
    assert verdict.missing == "120 more people with a genuine pair would show a gain of 2 points"
    gain = check_named(verdict, "heldout_gain")
    assert (gain.value, gain.low, gain.people, gain.pairs) == (
        pytest.approx(0.02),
        pytest.approx(-0.02),
        40,
        90,
    )


@BOTH
def test_a_candidate_equal_to_its_parent_fails(good: CandidateFigures) -> None:
    same = Change(0.5, 0.5, 0.0, 0.0, 40, 90)
    verdict = decide(replace(good, separation=same, fnmr=good.fnmr and same), self_check=True)
    assert verdict.outcome is GateOutcome.FAILED
    assert check_named(verdict, "heldout_gain").detail.startswith("no gain: ")


# A tenth of the people are for validation.
@pytest.mark.parametrize(
    ("gain", "more", "shown"), [(0.05, "240", "0.05"), (-0.01, "1,870", "0.02")]
)
@BOTH
def test_a_parent_that_was_kept_for_want_of_evidence_is_no_failure(
    good: CandidateFigures, gain: float, more: str, shown: str
) -> None:
    same = Change(0.5, 0.5, 0.0, 0.0, 40, 90)
    kept = replace(good, separation=same, fnmr=good.fnmr and same)
    hidden = GainWithinChance(gain=gain, noise=0.06, people=8)
    verdict = decide(kept, self_check=True, within_chance=hidden)
    assert verdict.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE
    assert refused(verdict) == {"validation_gain"}
    assert verdict.missing == (
        f"a training on about {more} more people with a genuine pair would show a gain of {shown} "
        "of the AUC"
    )


@BOTH
def test_too_few_people_or_pairs_are_not_enough_evidence(good: CandidateFigures) -> None:
    few = replace(good.separation, people=7, pairs=21)
    verdict = decide(replace(good, separation=few), self_check=True)
    assert verdict.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE
    assert refused(verdict) == {"heldout_people", "heldout_pairs"}
    assert verdict.missing == (
        "3 more people with a genuine pair to judge on; 9 more genuine pairs to judge on"
    )


def test_a_loss_that_may_be_chance_is_not_enough_evidence() -> None:
    unsure = replace(AT_POINT, reference=Change(0.07, 0.09, -0.01, 0.05, 50, 100))
    verdict = decide(unsure, self_check=True)
    assert verdict.outcome is GateOutcome.NOT_ENOUGH_EVIDENCE
    assert verdict.missing == "400 more people would show whether reference_loss is above 1 points"


def test_a_bad_figure_outweighs_missing_evidence() -> None:
    unsure = replace(AT_POINT, fnmr=Change(0.50, 0.48, -0.06, 0.02, 40, 90))
    verdict = decide(replace(unsure, magnitude_order=0.1), self_check=True)
    assert verdict.outcome is GateOutcome.FAILED
    assert verdict.missing == ""


def test_a_point_that_nothing_resolves_is_not_enough_evidence() -> None:
    nothing = replace(
        AT_POINT,
        point=JudgedPoint(0.001, 1.0, 1.0),
        fnmr=Change(0.0, 0.0, 0.0, 0.0, 40, 90),
    )
    assert decide(nothing, self_check=True).outcome is GateOutcome.NOT_ENOUGH_EVIDENCE


def test_every_check_says_what_it_was_measured_on() -> None:
    for good in (AT_POINT, EQUAL_WEIGHTS):
        for check in decide(good, self_check=True).checks:
            if check.name not in {"magnitude_change", "magnitude_order", "self_check"}:
                assert check.people > 0, check
                assert check.pairs > 0, check


def test_compatibility_is_what_its_checks_say() -> None:
    assert is_compatible(AT_POINT)
    assert is_compatible(EQUAL_WEIGHTS)
    assert not is_compatible(replace(AT_POINT, mixed_matches=MORE_MATCHES))
    assert not is_compatible(replace(EQUAL_WEIGHTS, compatibility=Change(0.20, 0.23)))


def test_a_verdict_is_stored_as_it_is() -> None:
    unsure = replace(AT_POINT, fnmr=Change(0.50, 0.48, -0.06, 0.02, 40, 90))
    verdict = decide(unsure, self_check=True)
    stored = verdict_to_json(verdict)
    assert stored is not None
    assert verdict_to_json(verdict_from_json(json.loads(stored))) == stored
