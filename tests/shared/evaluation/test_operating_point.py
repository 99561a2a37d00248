import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import InvalidInput
from shared.evaluation.metrics import identity_bootstrap
from shared.evaluation.operating_point import (
    PeopleBootstrap,
    ScoredPeople,
    joined,
    measure_curve,
    rate_of,
    threshold_for,
)
from shared.evaluation.scores import Scores


def scored(people: int, images: int, seed: int, spread: float = 1.0) -> ScoredPeople:
    """All pairs of simulated embeddings, which differ within a person by `spread`."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(people, 32)).repeat(images, axis=0)
    embeddings = centres + spread * generator.normal(size=centres.shape)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    person = np.arange(people, dtype=np.int32).repeat(images)
    first, second = np.triu_indices(people * images, 1)
    scores = Scores(
        np.einsum("pd,pd->p", embeddings[first], embeddings[second]),
        person[first] == person[second],
    )
    return ScoredPeople.of(scores, np.stack([person[first], person[second]], axis=1))


@pytest.mark.parametrize("fmr", [0.0, 0.1, 0.25, 0.999, 1.0])
def test_threshold_is_the_lowest_that_keeps_the_rate(fmr: float):
    similarity = np.random.default_rng(0).normal(size=200).clip(-1, 1)
    threshold = threshold_for(similarity, fmr)
    assert (similarity >= threshold).mean() <= fmr
    lower = np.nextafter(threshold, -np.inf)
    assert fmr == 1 or (similarity >= lower).mean() > fmr


def test_equal_similarities_are_accepted_together_or_not_at_all():
    similarity = np.array([0.5, 0.5, 0.5, 0.1])
    assert threshold_for(similarity, 0.5) > 0.5
    assert threshold_for(similarity, 0.75) <= 0.5


def test_samples_weigh_pairs_as_the_bootstrap_of_identities_does():
    pairs = scored(people=12, images=3, seed=1)
    bootstrap = PeopleBootstrap(pairs, seed=0, rounds=2000)
    accepted = pairs.impostor_similarity >= 0.2
    rejected = pairs.genuine_similarity < 0.4
    genuine = pairs.scores.genuine
    by_pair = list(identity_bootstrap(pairs.people, genuine, 2000, 0))
    fmr = [np.average(accepted, weights=weights[~genuine]) for weights in by_pair]
    fnmr = [np.average(rejected, weights=weights[genuine]) for weights in by_pair]
    assert_same_distribution(bootstrap.fmr(accepted), np.array(fmr))
    assert_same_distribution(bootstrap.fnmr(rejected), np.array(fnmr))


def assert_same_distribution(got: NDArray[np.float64], want: NDArray[np.float64]) -> None:
    scale = want.std()
    assert got.mean() == pytest.approx(want.mean(), abs=0.1 * scale)
    assert got.std() == pytest.approx(scale, rel=0.1)


def test_intervals_cover_the_rate_of_all_people():
    """Of 60 sets of 40 people, about 95 % of the intervals contain the rate of 3,000 people."""
    threshold = 0.35
    many = scored(people=400, images=3, seed=99)
    true_fmr = (many.impostor_similarity >= threshold).mean()
    true_fnmr = (many.genuine_similarity < threshold).mean()
    covered = []
    for seed in range(60):
        few = scored(people=40, images=3, seed=seed)
        bootstrap = PeopleBootstrap(few, seed)
        accepted, rejected = (
            few.impostor_similarity >= threshold,
            few.genuine_similarity < threshold,
        )
        fmr = rate_of(float(accepted.mean()), bootstrap.fmr(accepted), 40)
        fnmr = rate_of(float(rejected.mean()), bootstrap.fnmr(rejected), 40)
        covered.append((fmr.low <= true_fmr <= fmr.high, fnmr.low <= true_fnmr <= fnmr.high))
    shares = np.mean(covered, axis=0)
    assert (shares >= 0.85).all(), shares


def test_a_rate_without_errors_is_not_certain():
    rate = rate_of(0.0, np.zeros(400), people=30)
    assert (rate.value, rate.low) == (0, 0)
    assert rate.high == pytest.approx(1 - 0.025 ** (1 / 30))


def test_curve_keeps_every_rate_that_its_pairs_resolve():
    pairs = scored(people=64, images=4, seed=3)
    curve = measure_curve([pairs], seed=0)
    assert curve.impostor.pairs == 64 * 63 // 2 * 16
    assert (curve.impostor.people, curve.genuine.people, curve.genuine.pairs) == (64, 64, 64 * 6)
    for point in curve.points:
        assert point.fmr.value <= point.target
        assert curve.impostor.pairs * point.target >= 10
        assert point.fmr.high <= 3 * point.target
        assert point.fnmr.low <= point.fnmr.value <= point.fnmr.high
    assert curve.points[-1].target < 2e-3
    thresholds = [point.threshold for point in curve.points]
    assert thresholds == sorted(thresholds)


def test_more_people_resolve_lower_rates():
    few, more = (
        measure_curve([scored(people=people, images=2, seed=4)], seed=0) for people in (20, 120)
    )
    assert more.points[-1].target < few.points[-1].target / 10
    assert few.missing_people(more.points[-1].target) > 20


def test_rate_is_kept_on_every_set_that_resolves_it():
    """Impostor pairs of the second set are more similar, so it decides the threshold."""
    easy, hard = scored(people=40, images=3, seed=5), scored(people=40, images=3, seed=6)
    shifted = hard.rescored(np.where(hard.scores.genuine, 0.9, hard.scores.similarity + 0.2))
    curve = measure_curve([easy, shifted], seed=0)
    alone = measure_curve([shifted], seed=0)
    assert curve.at(1e-2).threshold == alone.at(1e-2).threshold
    assert (easy.impostor_similarity >= curve.at(1e-2).threshold).mean() < 1e-3


def test_people_of_two_sets_are_different_people():
    first, second = scored(people=5, images=2, seed=7), scored(people=6, images=2, seed=8)
    both = joined([first, second, first])
    assert len(np.unique(both.people)) == 16
    assert np.bincount(both.sets).tolist() == [len(each.scores) for each in (first, second, first)]


def test_curve_needs_both_kinds_of_pairs():
    pairs = scored(people=5, images=1, seed=0)
    with pytest.raises(InvalidInput, match="genuine and impostor"):
        measure_curve([pairs], seed=0)
