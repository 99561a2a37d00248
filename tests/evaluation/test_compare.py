import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.evaluation.compare import compare, mcnemar
from shared.evaluation.scores import Scores


def test_mcnemar_by_hand() -> None:
    old = np.array([False] * 9 + [True] * 11)
    new = np.array([True] * 8 + [False] + [False] * 1 + [True] * 10)
    test = mcnemar(old, new)
    assert (test.fixed, test.broken) == (8, 1)
    # Two-sided binomial: 2 * (C(9,0) + C(9,1)) / 2^9.
    assert test.p_value == pytest.approx(2 * 10 / 512)


def test_no_change_is_no_evidence() -> None:
    right = np.array([True, False, True])
    assert mcnemar(right, right).p_value == 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=50))
def test_mcnemar_does_not_care_which_side_is_called_new(right: list[tuple[bool, bool]]) -> None:
    old, new = np.array(right).T
    there, back = mcnemar(old, new), mcnemar(new, old)
    assert (there.fixed, there.broken) == (back.broken, back.fixed)
    assert there.p_value == pytest.approx(back.p_value)


def test_each_version_is_judged_at_its_own_threshold() -> None:
    genuine = np.array([True, True, False, False])
    old = Scores(np.array([0.5, 0.2, 0.1, 0.4]), genuine)
    new = Scores(np.array([0.9, 0.8, 0.75, 0.3]), genuine)
    changed = compare(old, 0.3, new, 0.7)
    assert changed.fixed.tolist() == [1, 3]
    assert changed.broken.tolist() == [2]
    assert changed.similarity_shift == pytest.approx((0.5, 0.275))


def test_scores_of_other_pairs_are_refused() -> None:
    old = Scores(np.array([0.5, 0.2]), np.array([True, False]))
    new = Scores(np.array([0.5, 0.2]), np.array([False, True]))
    with pytest.raises(InvalidInput, match="same pairs"):
        compare(old, 0.3, new, 0.3)
