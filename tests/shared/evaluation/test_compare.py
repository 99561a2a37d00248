import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import InvalidInput
from shared.evaluation.compare import compare, mcnemar
from shared.evaluation.measure import measure
from shared.evaluation.report.formatting import change_lines
from tests.shared.evaluation.sets import plane_set


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


def test_each_version_is_judged_at_its_own_threshold_and_says_who_changed() -> None:
    labels = [True, True, False, False]
    pair_set, before = plane_set([0.5, 0.2, 0.1, 0.4], labels)
    _, after = plane_set([0.9, 0.8, 0.75, 0.3], labels)
    old, new = measure("old", before, pair_set, 0.3), measure("new", after, pair_set, 0.7)
    changed = compare(old, new, pair_set)
    comparison = changed.comparison
    assert (comparison.mcnemar.fixed, comparison.mcnemar.broken) == (2, 1)
    # The pair whose similarity changed most is first.
    assert [pair.pair for pair in changed.fixed] == [1, 3]
    [broken] = changed.broken
    assert (broken.pair, broken.genuine) == (2, False)
    assert broken.images == ("image_00004", "image_00005")
    assert (broken.old_similarity, broken.similarity) == pytest.approx((0.1, 0.75))
    assert comparison.genuine_shift == pytest.approx(0.5)
    assert comparison.impostor_shift == pytest.approx(0.275)


def test_a_difference_is_paired_so_that_one_model_does_not_differ_from_itself() -> None:
    rng = np.random.default_rng(0)
    genuine = np.arange(200) < 100
    base = rng.normal(np.where(genuine, 0.4, 0.1), 0.15)
    pair_set, one = plane_set(np.clip(base, -1, 1).tolist(), genuine.tolist())
    lifted = np.clip(base + np.where(genuine, 0.1, -0.05), -1, 1)
    _, better = plane_set(lifted.tolist(), genuine.tolist())
    old, new = (measure(name, set_, pair_set, 0.25) for name, set_ in (("a", one), ("b", better)))
    for difference in compare(old, old, pair_set).comparison.differences.values():
        assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    gained = compare(old, new, pair_set).comparison.differences
    for name in ("accuracy", "auc", "tar_at_far.0.1"):
        assert 0 < gained[name].low <= gained[name].value <= gained[name].high
    assert gained["eer"].high < 0
    # Two separate intervals would overlap where the paired one excludes zero.
    assert old.evaluation.intervals["accuracy"].high > new.evaluation.intervals["accuracy"].low
    lines = {
        line.label: line
        for line in change_lines(
            old.evaluation, new.evaluation, compare(old, new, pair_set).comparison
        )
    }
    assert lines["accuracy"].difference == f"{100 * gained['accuracy'].value:+.2f}"
    assert set(lines) == {
        "accuracy",
        "best accuracy",
        "ROC AUC",
        "EER",
        "TAR at FAR 10 %",
        "TAR at FAR 1 %",
    }


def test_one_class_can_be_compared_as_far_as_it_goes() -> None:
    pair_set, before = plane_set([0.5, 0.2], [True, True])
    _, after = plane_set([0.5, 0.6], [True, True])
    old, new = (measure(name, set_, pair_set, 0.4) for name, set_ in (("a", before), ("b", after)))
    comparison = compare(old, new, pair_set).comparison
    assert comparison.mcnemar.fixed == 1
    assert comparison.differences == {}
    assert comparison.impostor_shift is None


def test_scores_of_other_pairs_are_refused() -> None:
    pair_set, embedded = plane_set([0.5, 0.2], [True, False])
    other_set, other = plane_set([0.5, 0.2], [False, True])
    old, new = measure("a", embedded, pair_set, 0.3), measure("b", other, other_set, 0.3)
    with pytest.raises(InvalidInput, match="same pairs"):
        compare(old, new, pair_set)
