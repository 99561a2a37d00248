"""Tests of the selection strategies, on pools whose truth is known."""

import numpy as np
import pytest

from services.feedback.pool.calibration import Calibration
from services.feedback.selection.identity_clusters import cluster
from services.feedback.selection.match_probability import MatchProbability, prior_match_probability
from services.feedback.selection.strategies import MIX, Caps, PoolView, Strategy, choose, scores
from shared.model.manifest import ProbabilityCurve

CALIBRATION = Calibration(0.2, None)


def made_pool(people: int = 60, images: int = 5, seed: int = 0) -> tuple[PoolView, np.ndarray]:
    """A pool embedded by a mediocre network, and the person on each image."""
    rng = np.random.default_rng(seed)
    persons = np.repeat(np.arange(people), images)
    centres = rng.normal(size=(people, 24))
    embeddings = centres[persons] + 1.1 * rng.normal(size=(len(persons), 24))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    similarity = embeddings @ embeddings.T
    np.fill_diagonal(similarity, -1)
    near = np.argsort(-similarity, axis=1)[:, :10]
    links = np.column_stack((np.repeat(np.arange(len(persons)), 10), near.ravel()))
    found = np.take_along_axis(similarity, near, axis=1)
    view = PoolView(rng.random(len(persons)), found.mean(axis=1), links, found.ravel())
    return view, persons


def prior_of(view: PoolView) -> MatchProbability:
    return prior_match_probability(CALIBRATION, view.csls())


def same(pairs: np.ndarray, persons: np.ndarray) -> np.ndarray:
    return np.asarray(persons[pairs[:, 0]] == persons[pairs[:, 1]])


def test_uncertainty_asks_where_the_probability_is_near_one_half() -> None:
    view, _ = made_pool()
    even = PoolView(np.ones(len(view.quality)), view.neighbour_mean, view.links, view.similarity)
    model = prior_of(even)
    probability = model.probability(even.similarity, even.csls())
    worth = scores(even, model, Strategy.UNCERTAINTY)
    order = np.argsort(-worth)
    assert np.all(np.diff(np.abs(probability[order] - 0.5)) >= -1e-9)


@pytest.mark.parametrize("strategy", [Strategy.UNCERTAINTY, Strategy.HARD])
def test_what_is_asked_holds_more_genuine_pairs_than_what_is_drawn(strategy: Strategy) -> None:
    view, persons = made_pool()
    rng = np.random.default_rng(0)
    asked = choose(view, prior_of(view), strategy, 100, rng).pairs
    drawn = choose(view, prior_of(view), Strategy.RANDOM, 100, rng).pairs
    assert len(asked) == len(drawn) == 100
    assert same(asked, persons).mean() > 1.5 * same(drawn, persons).mean()
    assert 0.2 < same(asked, persons).mean() < 0.8


def test_hard_asks_about_either_side_of_each_image() -> None:
    view, _ = made_pool()
    model = prior_of(view)
    marked = scores(view, model, Strategy.HARD) > 0
    above = model.probability(view.similarity, view.csls()) >= 0.5
    anchors = view.links[:, 0]
    for side in (above, ~above):
        counts = np.bincount(anchors[marked & side], minlength=len(view.quality))
        there = np.bincount(anchors[side], minlength=len(view.quality)) > 0
        assert np.array_equal(counts, there.astype(int))


def test_labels_teach_which_links_are_genuine() -> None:
    view, persons = made_pool(seed=1)
    truth = same(view.links, persons)
    at_first = prior_of(view)
    learned = at_first.fit(view.similarity, view.csls(), truth)

    def surprise(model: MatchProbability) -> float:
        probability = model.probability(view.similarity, view.csls())
        return -float(np.log(np.where(truth, probability, 1 - probability)).mean())

    assert surprise(learned) < surprise(at_first)
    assert learned.probability(view.similarity, view.csls()).mean() == pytest.approx(
        truth.mean(), abs=0.02
    )


def test_labels_say_how_much_the_versions_curve_adds() -> None:
    rng = np.random.default_rng(0)
    similarity = rng.uniform(-0.2, 0.8, 2000)
    curve = ProbabilityCurve(slope=25.0, intercept=-7.0)
    truth = rng.random(2000) < curve(similarity)
    calibration = Calibration(0.28, curve)
    flat = rng.normal(size=2000)  # CSLS carries no information here
    learned = prior_match_probability(calibration, flat).fit(similarity, flat, truth)
    assert learned.weights[2] > 0.7
    assert abs(learned.weights[1]) < 0.3


def test_without_a_curve_the_order_is_by_distance_from_the_threshold() -> None:
    similarity = np.array([-0.5, 0.1, 0.2, 0.3, 0.9])
    odds = CALIBRATION.log_odds(similarity)
    assert np.array_equal(np.argsort(np.abs(odds)), np.argsort(np.abs(similarity - 0.2)))


def test_a_pair_with_a_bad_image_is_worth_less() -> None:
    links = np.array([[0, 1], [2, 3], [4, 5], [6, 7]])
    view = PoolView(
        np.array([0.01, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]),
        np.zeros(8),
        links,
        np.full(4, 0.5),
    )
    model = prior_match_probability(CALIBRATION, np.linspace(0, 1, 50))
    worth = scores(view, model, Strategy.UNCERTAINTY)
    assert worth[0] < worth[1] == worth[2] == worth[3]


def test_disagreement_asks_where_two_versions_differ() -> None:
    view, _ = made_pool()
    model = prior_of(view)
    probability = model.probability(view.similarity, view.csls())
    other = probability.copy()
    other[[5, 17]] = 1 - np.round(probability[[5, 17]])
    seen = PoolView(
        np.ones(300), view.neighbour_mean, view.links, view.similarity, other_probability=other
    )
    chosen = choose(seen, model, Strategy.DISAGREEMENT, 10, np.random.default_rng(0)).pairs
    expected = {tuple(sorted(view.links[place].tolist())) for place in (5, 17)}
    assert {tuple(pair) for pair in chosen.tolist()} == expected
    assert len(choose(view, model, Strategy.DISAGREEMENT, 9, np.random.default_rng(0)).pairs) == 0


def test_no_image_and_no_person_is_asked_about_too_often() -> None:
    view, persons = made_pool(people=10, images=20)
    named = PoolView(
        view.quality, view.neighbour_mean, view.links, view.similarity, persons=persons
    )
    pairs = choose(
        named,
        prior_of(named),
        Strategy.UNCERTAINTY,
        1000,
        np.random.default_rng(0),
        caps=Caps(image=3, person=8),
    ).pairs
    assert np.bincount(pairs.ravel()).max() <= 3
    owners = np.concatenate([np.unique(persons[pair]) for pair in pairs])
    assert np.bincount(owners).max() <= 8


def test_what_is_known_is_not_asked_again() -> None:
    view, _ = made_pool()
    model, rng = prior_of(view), np.random.default_rng(0)
    known: list[tuple[int, int]] = []
    for strategy in (Strategy.HARD, Strategy.UNCERTAINTY, Strategy.RANDOM, Strategy.HARD):
        more = choose(view, model, strategy, 50, rng, known=known).pairs
        assert np.all(more[:, 0] < more[:, 1])
        known += [(a, b) for a, b in more.tolist()]
    assert len(set(known)) == len(known) == 200


def test_the_shares_of_the_default_are_shares() -> None:
    assert sum(MIX.values()) == pytest.approx(1.0)


def test_an_empty_pool_gives_no_pairs() -> None:
    nothing = np.zeros((0, 2), np.int64)
    view = PoolView(np.zeros(0), np.zeros(0), nothing, np.zeros(0))
    for strategy in Strategy:
        chosen = choose(view, prior_of(view), strategy, 5, np.random.default_rng(0))
        assert chosen.pairs.shape == (0, 2)


def test_lookalikes_are_joined_but_never_two_known_people() -> None:
    links = np.array([[0, 1], [1, 2], [2, 3], [4, 5]])
    numbers = cluster(6, links, np.array([0.9, 0.8, 0.7, 0.6]))
    assert len(set(numbers[:4])) == 1 != numbers[4]
    known = np.array([7, -1, -1, 8, -1, -1])
    numbers = cluster(6, links, np.array([0.9, 0.8, 0.7, 0.6]), known)
    assert numbers[0] == numbers[1] == numbers[2] != numbers[3]


def test_a_chain_of_lookalikes_does_not_become_one_person() -> None:
    links = np.column_stack((np.arange(500), np.arange(1, 501)))
    assert np.bincount(cluster(501, links, np.ones(500))).max() <= 50
