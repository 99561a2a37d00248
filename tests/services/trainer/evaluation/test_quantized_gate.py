"""The gate of quantized versions."""

from dataclasses import replace
from typing import Any

import pytest

from services.trainer.evaluation.candidate_figures import Change, FalseMatches
from services.trainer.evaluation.quantized_gate import (
    MAX_LOSS,
    MIN_FEEDBACK_PAIRS,
    QuantizedAtPoint,
    QuantizedFigures,
    decide_quantized,
)
from shared.model.operating_curve import Rate

GOOD = QuantizedFigures(
    reference=Change(0.05, 0.055, -0.001, 0.011, 32, 9000),
    mixed_error=0.052,
    feedback_pairs=1000,
    feedback_full_error=0.1,
    feedback_quantized_error=0.102,
    cosine_mean=0.99,
    cosine_min=0.9,
    magnitude_ratio=1.0,
    magnitude_order=0.99,
)


@pytest.mark.parametrize(
    ("worse", "check"),
    [
        ({"reference": Change(0.05, 0.055, 1.01 * MAX_LOSS, 0.009, 32, 9000)}, "reference_loss"),
        ({"reference": Change(0.05, 0.061, -0.01, 0.03, 8, 900)}, "reference_loss"),
        ({"feedback_quantized_error": 0.1 + 1.01 * MAX_LOSS}, "feedback_loss"),
        ({"mixed_error": 0.07}, "compatibility_loss"),
        ({"cosine_mean": 0.9}, "embedding_cosine"),
        ({"reference": Change(0.05, float("nan"), float("nan"), float("nan"))}, "reference_loss"),
    ],
)
def test_the_gate_refuses_one_that_is_worse(worse: dict[str, Any], check: str):
    assert decide_quantized(GOOD, self_check=True).passed
    verdict = decide_quantized(replace(GOOD, **worse), self_check=True)
    assert [each.name for each in verdict.checks if not each.passed] == [check]


AT_POINT = QuantizedAtPoint(
    target_fmr=0.001,
    kept_fmr=0.001,
    matches=FalseMatches(
        parent=0.001,
        child=Rate(value=0.0013, low=0.0008, high=0.002),
        rise_low=-0.0001,
        rise_high=0.0006,
        people=50,
        pairs=9000,
    ),
    fnmr=Change(0.20, 0.21, -0.002, 0.022, 50, 100),
)


def test_a_verdict_at_an_operating_point_says_which():
    verdict = decide_quantized(GOOD, self_check=True, at_point=AT_POINT)
    assert verdict.passed
    assert verdict.target_fmr == 0.001


@pytest.mark.parametrize(
    ("worse", "check"),
    [
        (
            {"matches": replace(AT_POINT.matches, child=Rate(value=0.003, low=0.0015, high=0.005))},
            "reference_fmr",
        ),
        ({"fnmr": Change(0.20, 0.23, 0.01, 0.05, 50, 100)}, "reference_fnmr"),
        ({"fnmr": Change(0.20, float("nan"), float("nan"), float("nan"))}, "reference_fnmr"),
    ],
)
def test_the_gate_refuses_one_that_is_worse_at_the_operating_point(
    worse: dict[str, Any], check: str
):
    at_point = replace(AT_POINT, **worse)
    verdict = decide_quantized(GOOD, self_check=True, at_point=at_point)
    assert [each.name for each in verdict.checks if not each.passed] == [check]


def test_the_gate_refuses_one_that_fails_its_self_check():
    assert not decide_quantized(GOOD, self_check=False).passed


def test_feedback_too_little_to_show_the_loss_decides_nothing():
    few = replace(GOOD, feedback_pairs=MIN_FEEDBACK_PAIRS - 1, feedback_quantized_error=1.0)
    verdict = decide_quantized(few, self_check=True)
    assert verdict.passed
    assert "feedback_loss" not in {check.name for check in verdict.checks}
