"""The gate of quantized versions."""

from dataclasses import replace

import pytest

from services.trainer.evaluation.quantized_gate import (
    MAX_LOSS,
    MIN_FEEDBACK_PAIRS,
    QuantizedFigures,
    decide_quantized,
)

GOOD = QuantizedFigures(
    full_error=0.05,
    quantized_error=0.05 + MAX_LOSS / 2,
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
        ({"quantized_error": 0.05 + 1.01 * MAX_LOSS}, "reference_loss"),
        ({"feedback_quantized_error": 0.1 + 1.01 * MAX_LOSS}, "feedback_loss"),
        ({"mixed_error": 0.07}, "compatibility_loss"),
        ({"cosine_mean": 0.9}, "embedding_cosine"),
        ({"quantized_error": float("nan")}, "reference_loss"),
    ],
)
def test_the_gate_refuses_one_that_is_worse(worse: dict[str, float], check: str):
    assert decide_quantized(GOOD, self_check=True).passed
    verdict = decide_quantized(replace(GOOD, **worse), self_check=True)
    assert [each.name for each in verdict.checks if not each.passed] == [check]


def test_the_gate_refuses_one_that_fails_its_self_check():
    assert not decide_quantized(GOOD, self_check=False).passed


def test_feedback_too_little_to_show_the_loss_decides_nothing():
    few = replace(GOOD, feedback_pairs=MIN_FEEDBACK_PAIRS - 1, feedback_quantized_error=1.0)
    verdict = decide_quantized(few, self_check=True)
    assert verdict.passed
    assert "feedback_loss" not in {check.name for check in verdict.checks}
