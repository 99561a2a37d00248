"""Each metric, compared with scikit-learn or with its definition."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score, precision_score, recall_score, roc_auc_score

from shared.errors import InvalidInput
from shared.evaluation.metrics import (
    confusion,
    error_versus_reject,
    folded_accuracy,
    identity_bootstrap,
    roc,
    supports_far,
    tar_at_far,
)
from shared.evaluation.scores import Scores, pair_similarity


@st.composite
def scored_pairs(draw: st.DrawFn) -> Scores:
    """Up to 60 pairs; half of the time from few values, so that ties are common."""
    count = draw(st.integers(2, 60))
    value = draw(
        st.sampled_from(
            [
                st.sampled_from([-0.5, 0.0, 0.1, 0.3, 0.30000001, 0.9]),
                st.floats(-1, 1, width=32),
            ]
        )
    )
    similarity = draw(hnp.arrays(np.float64, count, elements=value))
    genuine = draw(hnp.arrays(np.bool_, count))
    return Scores(similarity, genuine)


@st.composite
def two_class_pairs(draw: st.DrawFn) -> Scores:
    scores = draw(scored_pairs())
    assume(scores.genuine_pairs and scores.impostor_pairs)
    return scores


@given(scored_pairs(), st.floats(-1, 1))
def test_confusion_equals_scikit_learn(scores: Scores, threshold: float) -> None:
    counted = confusion(scores, threshold)
    decided = scores.similarity >= threshold
    assert counted.tp + counted.tn + counted.fp + counted.fn == len(scores)
    assert counted.accuracy == pytest.approx(accuracy_score(scores.genuine, decided))
    assert counted.precision == pytest.approx(
        precision_score(scores.genuine, decided, zero_division=0)
    )
    assert counted.recall == pytest.approx(recall_score(scores.genuine, decided, zero_division=0))


@given(two_class_pairs())
def test_auc_equals_scikit_learn(scores: Scores) -> None:
    assert roc(scores).auc == pytest.approx(roc_auc_score(scores.genuine, scores.similarity))


@given(two_class_pairs())
def test_best_threshold_is_the_best_of_all_and_reaches_what_it_says(scores: Scores) -> None:
    threshold, accuracy = roc(scores).best()
    candidates = [*scores.similarity, np.inf]
    by_hand = max(np.mean((scores.similarity >= t) == scores.genuine) for t in candidates)
    assert accuracy == pytest.approx(by_hand)
    assert confusion(scores, threshold).accuracy == pytest.approx(by_hand)


@given(two_class_pairs(), st.sampled_from([1.0, 0.5, 0.2, 0.1]))
def test_tar_at_far_by_definition_or_refused(scores: Scores, far: float) -> None:
    impostors = scores.similarity[~scores.genuine]
    genuine = scores.similarity[scores.genuine]
    if len(impostors) * far < 1 - 1e-9:
        assert not supports_far(scores, far)
        with pytest.raises(InvalidInput, match="impostor pairs"):
            tar_at_far(scores, far)
        return
    candidates = [t for t in [*scores.similarity, np.inf] if np.mean(impostors >= t) <= far + 1e-12]
    by_hand = max(np.mean(genuine >= t) for t in candidates)
    found = tar_at_far(scores, far)
    assert found.tar == pytest.approx(by_hand)
    assert np.mean(impostors >= found.threshold) <= far + 1e-12
    assert np.mean(genuine >= found.threshold) == pytest.approx(by_hand)


@given(two_class_pairs())
def test_eer_lies_on_the_roc_where_both_errors_meet(scores: Scores) -> None:
    curve = roc(scores)
    miss_at_eer = 1 - np.interp(curve.eer, curve.far, curve.tar)
    crossing_is_vertical = np.any(np.isclose(curve.far, curve.eer)) and not math.isclose(
        miss_at_eer, curve.eer, abs_tol=1e-9
    )
    if crossing_is_vertical:
        at = np.isclose(curve.far, curve.eer)
        misses = 1 - curve.tar[at]
        assert misses.min() - 1e-9 <= curve.eer <= misses.max() + 1e-9
    else:
        assert miss_at_eer == pytest.approx(curve.eer, abs=1e-9)


def test_eer_counted_by_hand() -> None:
    scores = Scores(
        np.array([0.9, 0.8, 0.4, 0.7, 0.3, 0.2, 0.1, 0.0]),
        np.array([True, True, True, False, True, False, False, False]),
    )
    # At 0.4: one of four impostors accepted, one of four genuine missed.
    assert roc(scores).eer == pytest.approx(0.25)


@pytest.mark.parametrize("label", [True, False])
def test_one_class_only_is_counted_but_has_no_roc(label: bool) -> None:
    scores = Scores(np.array([0.2, 0.7]), np.array([label, label]))
    assert confusion(scores, 0.5).accuracy == 0.5
    with pytest.raises(InvalidInput, match="genuine and impostor"):
        roc(scores)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_similarity_that_is_no_number_is_refused_by_place(bad: float) -> None:
    with pytest.raises(InvalidInput, match=r"scores\[1\]"):
        Scores(np.array([0.1, bad]), np.array([True, False]))


def test_scores_without_pairs_or_of_two_lengths_are_refused() -> None:
    with pytest.raises(InvalidInput, match="no pair"):
        Scores(np.empty(0), np.empty(0, dtype=bool))
    with pytest.raises(InvalidInput, match="shape"):
        Scores(np.zeros(3), np.zeros(2, dtype=bool))


def test_all_similarities_equal_decide_nothing() -> None:
    scores = Scores(np.full(10, 0.3), np.arange(10) % 2 == 0)
    curve = roc(scores)
    assert curve.auc == 0.5
    assert curve.eer == 0.5
    assert curve.best()[1] == 0.5


def test_folded_accuracy_chooses_each_threshold_on_the_other_folds() -> None:
    # In fold 0 all similarities are 0.5 higher, so the threshold of the others accepts impostors.
    base = np.array([0.3, 0.35, 0.1, 0.05])
    similarity = np.concatenate([base + 0.5, base, base])
    genuine = np.tile([True, True, False, False], 3)
    folded = folded_accuracy(Scores(similarity, genuine), np.repeat([0, 1, 2], 4).astype(np.int32))
    assert folded.accuracies[0] == 0.5
    assert folded.thresholds[0] == pytest.approx(0.2)
    assert folded.mean == pytest.approx(folded.accuracies.mean())
    assert folded.std == pytest.approx(np.std(folded.accuracies))


def test_rejecting_poor_pairs_lowers_fnmr_only_when_quality_tells() -> None:
    generator = np.random.default_rng(0)
    quality = generator.uniform(size=4000)
    genuine = np.arange(4000) % 2 == 0
    similarity = np.where(genuine, 0.1 + 0.6 * quality, generator.normal(0, 0.1, 4000))
    telling = error_versus_reject(Scores(similarity, genuine), quality, fmr=1e-2)
    silent = error_versus_reject(Scores(similarity, genuine), generator.permutation(quality), 1e-2)
    assert telling.fnmr[0] == silent.fnmr[0] > 0.1
    assert telling.fnmr[-1] == 0
    assert silent.fnmr[-1] == pytest.approx(silent.fnmr[0], abs=0.05)


@given(two_class_pairs(), st.integers(0, 2**31))
def test_weights_count_pairs_as_repetition_does(scores: Scores, seed: int) -> None:
    counts = np.random.default_rng(seed).integers(1, 4, len(scores))
    repeated = Scores(np.repeat(scores.similarity, counts), np.repeat(scores.genuine, counts))
    weighted = roc(scores, counts.astype(np.float64))
    assert weighted.auc == pytest.approx(roc(repeated).auc)
    assert weighted.best()[1] == pytest.approx(roc(repeated).best()[1])
    assert weighted.eer == pytest.approx(roc(repeated).eer)


def test_bootstrap_draws_people_not_pairs() -> None:
    identities = np.array([[0, 0], [1, 1], [0, 1], [1, 2], [2, 2]], dtype=np.int32)
    genuine = identities[:, 0] == identities[:, 1]
    for weights in identity_bootstrap(identities, genuine, rounds=50, seed=3):
        times = {0: weights[0], 1: weights[1], 2: weights[4]}
        assert sum(times.values()) == 3
        assert weights[2] == times[0] * times[1]
        assert weights[3] == times[1] * times[2]


def test_bootstrap_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for trial in range(40):
        people = 30
        shift = generator.normal(0.4, 0.1, people)
        own = np.repeat(np.arange(people), 5)
        other = (own + generator.integers(1, people, len(own))) % people
        identities = np.concatenate([np.c_[own, own], np.c_[own, other]]).astype(np.int32)
        genuine = np.arange(len(identities)) < len(own)
        similarity = np.where(
            genuine,
            shift[identities[:, 0]] + generator.normal(0, 0.05, len(identities)),
            generator.normal(0.2, 0.1, len(identities)),
        )
        scores = Scores(similarity, genuine)
        samples = [
            roc(scores, w).auc for w in identity_bootstrap(identities, genuine, 100, seed=trial)
        ]
        low, high = np.quantile(samples, [0.025, 0.975])
        # True AUC of N(0.4, 0.1^2 + 0.05^2) against N(0.2, 0.1^2).
        truth = 0.5 * (1 + math.erf(0.2 / math.sqrt(2 * (0.1**2 + 0.05**2 + 0.1**2))))
        covered += bool(low <= truth <= high)
    assert covered >= 32


@given(st.integers(1, 40), st.integers(1, 30))
def test_pair_similarity_is_the_dot_product(count: int, pairs: int) -> None:
    generator = np.random.default_rng(count)
    embeddings = generator.normal(size=(count, 8)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    index = generator.integers(count, size=(pairs, 2)).astype(np.int32)
    expected = [float(embeddings[a] @ embeddings[b]) for a, b in index]
    assert pair_similarity(embeddings, index) == pytest.approx(expected, abs=1e-6)
