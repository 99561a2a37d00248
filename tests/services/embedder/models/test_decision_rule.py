"""The decision rule of a version at an operating point."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.embedder.models.decision_rule import NO_TARGET, DecisionRule, FmrTarget
from tests.services.embedder.standin import manifest
from tests.support.operating_curve import curve_at


@given(
    threshold=st.floats(-0.99, 1.0),
    steps=st.integers(-3, 3),
)
def test_rounding_to_float32_lets_no_further_similarity_pass(threshold: float, steps: int) -> None:
    version = manifest("v1").model_copy(update={"operating_curve": curve_at((1e-2, threshold))})
    served = DecisionRule.of(version, FmrTarget(1e-2)).threshold
    assert served == np.float32(served)
    similarity = np.float32(threshold)
    for _ in range(abs(steps)):
        similarity = np.nextafter(similarity, np.float32(np.copysign(2, steps)))
    assert (similarity >= np.float32(served)) == (float(similarity) >= threshold)


@pytest.mark.parametrize("threshold", [0.3, 0.7, -1.0, 1.0])
def test_without_a_target_the_threshold_is_that_of_the_version(threshold: float) -> None:
    version = manifest("v1").model_copy(
        update={"threshold": threshold, "operating_curve": curve_at((1e-2, 0.1))}
    )
    rule = DecisionRule.of(version, NO_TARGET)
    assert (rule.threshold, rule.kept_fmr) == (float(np.float32(threshold)), None)
