"""Figures of a complete evaluation, compared with figures counted by hand."""

import numpy as np
import pytest

from shared.errors import InvalidInput
from shared.evaluation.bootstrap import bootstrap
from shared.evaluation.measure import Measurement, measure
from shared.evaluation.report.formatting import headlines, tar_lines
from shared.evaluation.results import Evaluation
from tests.shared.evaluation.sets import plane_set

SIMILARITIES = [0.9, 0.8, 0.3, 0.5, 0.1, -0.2]
LABELS = [True, True, True, False, False, False]


def small() -> Measurement:
    pair_set, embedded = plane_set(SIMILARITIES, LABELS)
    return measure("small", embedded, pair_set, 0.4)


def test_figures_counted_by_hand() -> None:
    result = small().evaluation
    assert (result.images, result.pairs) == (12, 6)
    assert (result.genuine_pairs, result.impostor_pairs) == (3, 3)
    assert (result.tp, result.fn, result.fp, result.tn) == (2, 1, 1, 2)
    assert result.accuracy == pytest.approx(4 / 6)
    assert result.precision == result.recall == pytest.approx(2 / 3)
    assert result.best_accuracy == pytest.approx(5 / 6)
    # Of the two best gaps, 0.1 to 0.3 and 0.5 to 0.8, the wider one.
    assert result.best_threshold == pytest.approx(0.65)
    assert result.auc == pytest.approx(8 / 9)
    assert result.eer == pytest.approx(1 / 3)
    assert result.mean_magnitude == 20


def test_tar_is_given_only_where_the_impostor_pairs_can_support_the_far() -> None:
    assert set(small().evaluation.tar_at_far.values()) == {None}
    rng = np.random.default_rng(0)
    genuine = np.arange(300) < 150
    similarities = np.clip(rng.normal(np.where(genuine, 0.6, 0.0), 0.2), -1, 1)
    pair_set, embedded = plane_set(similarities.tolist(), genuine.tolist())
    result = measure("larger", embedded, pair_set, 0.3).evaluation
    ranked = np.sort(similarities[~genuine])
    # Of 150 impostor pairs 15 may be accepted, or 1.
    for far, allowed in (("0.1", 15), ("0.01", 1)):
        by_hand = np.mean(similarities[genuine] > ranked[-allowed - 1])
        assert result.tar_at_far[far] == pytest.approx(by_hand)
    assert result.tar_at_far["0.001"] is result.tar_at_far["0.0001"] is None
    assert "too few impostor pairs: 150" in [line.note for line in tar_lines(result)]


def test_intervals_surround_the_figures_and_repeat_for_a_seed() -> None:
    result = small().evaluation
    assert set(result.intervals) == {"accuracy", "best_accuracy", "auc", "eer"}
    for name, interval in result.intervals.items():
        assert 0 <= interval.low <= getattr(result, name) <= interval.high <= 1
    assert small().evaluation == result
    pair_set, embedded = plane_set(SIMILARITIES, LABELS)
    assert measure("no", embedded, pair_set, 0.4, bootstrap_rounds=0).evaluation.intervals == {}


def test_bootstrap_gives_what_repeating_the_pairs_gives() -> None:
    pair_set, embedded = plane_set(SIMILARITIES, LABELS)
    scores = measure("small", embedded, pair_set, 0.4).scores
    people = np.array([[0, 0], [1, 1], [0, 0], [0, 1], [1, 2], [2, 0]], np.int32)
    samples = bootstrap(scores, people, 0.4, rounds=30, seed=1)
    drawn = np.random.default_rng(1)
    checked = 0
    while checked < 30:
        times = np.bincount(drawn.integers(3, size=3), minlength=3)
        left, right = times[people].T
        repeat = np.where(scores.genuine, left, left * right)
        kept = np.repeat(scores.genuine, repeat)
        if kept.all() or not kept.any():
            continue
        right_ones = np.repeat((scores.similarity >= 0.4) == scores.genuine, repeat)
        assert samples["accuracy"][checked] == pytest.approx(right_ones.mean())
        checked += 1


def test_folds_are_counted_by_hand() -> None:
    pair_set, embedded = plane_set(
        [0.8, 0.2, 0.9, 0.55], [True, False, True, False], folds=[0, 0, 1, 1]
    )
    folded = measure("folds", embedded, pair_set, 0.4).evaluation.folded
    # Thresholds 0.725 and 0.5: the second accepts the impostor pair at 0.55.
    assert folded is not None
    assert folded.folds == 2
    assert folded.mean == pytest.approx(0.75)
    assert folded.std == pytest.approx(0.25)


@pytest.mark.parametrize("label", [True, False])
def test_a_set_of_one_class_has_counts_and_nothing_that_needs_both(label: bool) -> None:
    pair_set, embedded = plane_set([0.9, 0.2], [label, label], folds=[0, 1])
    result = measure("one class", embedded, pair_set, 0.4).evaluation
    assert (result.tp, result.fn) == ((1, 1) if label else (0, 0))
    assert (result.fp, result.tn) == ((0, 0) if label else (1, 1))
    assert result.accuracy == 0.5
    missing = (result.best_accuracy, result.best_threshold, result.auc, result.eer, result.folded)
    assert missing == (None,) * 5
    assert set(result.tar_at_far.values()) == {None}
    assert "needs genuine and impostor pairs" in [line.note for line in headlines(result)]


def test_poor_images_are_rejected_by_the_smaller_magnitude() -> None:
    genuine = np.arange(2000) < 1000
    rng = np.random.default_rng(0)
    poor = rng.random(2000) < 0.2
    similarities = np.where(genuine, np.where(poor, 0.0, 0.9), rng.uniform(-0.1, 0.1, 2000))
    magnitudes = np.stack([np.full(2000, 25.0), np.where(poor, 10.0, 24.0)], axis=1).ravel()
    pair_set, embedded = plane_set(similarities.tolist(), genuine.tolist(), magnitudes.tolist())
    curve = measure("poor", embedded, pair_set, 0.4, bootstrap_rounds=0).evaluation
    assert curve.error_versus_reject is not None
    share, fnmr = curve.error_versus_reject.rejected, curve.error_versus_reject.fnmr
    assert fnmr[0] == pytest.approx(poor[genuine].mean())
    assert [f for s, f in zip(share, fnmr, strict=True) if s > 0.25] == [0.0] * 10


def test_a_broken_similarity_is_refused() -> None:
    pair_set, embedded = plane_set(SIMILARITIES, LABELS)
    embedded.embeddings[3, 0] = np.nan
    with pytest.raises(InvalidInput, match=r"scores\[1\].*nan"):
        measure("broken", embedded, pair_set, 0.4)


def test_figures_survive_being_stored() -> None:
    result = small().evaluation
    assert Evaluation.model_validate_json(result.model_dump_json()) == result
