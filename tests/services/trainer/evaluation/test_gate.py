"""The gate and the figures that it decides on."""

import math
from dataclasses import replace

import numpy as np
import pytest

from services.trainer.data.splits import EvaluationPairs, reference_pairs
from services.trainer.evaluation.candidate_metrics import (
    ComparedFeatures,
    balanced_error,
    evaluate_candidate,
    is_backward_compatible,
    lowest_balanced_error,
    score_pairs,
)
from services.trainer.evaluation.gate import CandidateFigures, GateVerdict, decide, is_compatible

GOOD = CandidateFigures(
    people=40,
    genuine_pairs=90,
    parent_error=0.20,
    child_error=0.12,
    parent_separation=0.87,
    child_separation=0.93,
    gain_low=0.04,
    mixed_error=0.17,
    reference_parent_error=0.070,
    reference_child_error=0.072,
    magnitude_ratio=1.05,
    magnitude_order=0.93,
)


def failed(verdict: GateVerdict) -> set[str]:
    return {check.name for check in verdict.checks if not check.passed}


def test_a_better_candidate_passes() -> None:
    verdict = decide(GOOD, self_check=True)
    assert verdict.passed
    assert failed(verdict) == set()


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ({"reference_child_error": 0.09}, "reference_loss"),
        ({"gain_low": 0.0}, "heldout_gain"),
        ({"gain_low": -0.01}, "heldout_gain"),
        ({"child_error": 0.21}, "heldout_errors"),
        ({"people": 9}, "heldout_people"),
        ({"genuine_pairs": 20}, "heldout_pairs"),
        ({"mixed_error": 0.23}, "compatibility_loss"),
        ({"magnitude_ratio": 2.6}, "magnitude_change"),
        ({"magnitude_ratio": 0.4}, "magnitude_change"),
        ({"magnitude_order": 0.3}, "magnitude_order"),
    ],
)
def test_each_figure_alone_can_refuse(change: dict[str, float], check: str) -> None:
    verdict = decide(replace(GOOD, **change), self_check=True)
    assert not verdict.passed
    assert failed(verdict) == {check}


def test_a_failed_self_check_refuses() -> None:
    assert failed(decide(GOOD, self_check=False)) == {"self_check"}


@pytest.mark.parametrize(
    "figure",
    ["child_error", "gain_low", "mixed_error", "reference_child_error", "magnitude_ratio"],
)
def test_a_figure_that_is_no_number_never_passes(figure: str) -> None:
    assert not decide(replace(GOOD, **{figure: math.nan}), self_check=True).passed


def test_compatibility_is_what_its_check_says() -> None:
    assert is_compatible(GOOD)
    assert not is_compatible(replace(GOOD, mixed_error=0.23))


class People:
    """Made-up features: a direction for each person, and noise that depends on the model."""

    def __init__(self, people: int, images: int, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.persons = np.repeat(np.arange(people), images)
        self.centres = self.rng.normal(size=(people, 64))

    def features(self, noise: float, magnitude: float = 20.0) -> np.ndarray:
        raw = self.centres[self.persons] + noise * self.rng.normal(size=(len(self.persons), 64))
        raw /= np.linalg.norm(raw, axis=1, keepdims=True)
        quality = 1 + 0.2 * np.random.default_rng(1).random(len(raw))[:, None]
        return (magnitude * quality * raw).astype(np.float32)

    def pairs(self, first: int, last: int) -> EvaluationPairs:
        chosen = np.flatnonzero((self.persons >= first) & (self.persons < last))
        return reference_pairs(self.persons, chosen, seed=0)


def verdict_on(
    world: People, parent: np.ndarray, child: np.ndarray, held_out: tuple[int, int] = (40, 80)
) -> GateVerdict:
    features = ComparedFeatures(parent, child)
    reference = (ComparedFeatures(parent, parent), world.pairs(80, 120))
    evaluation = evaluate_candidate(
        features, world.pairs(0, 40), world.pairs(*held_out), reference, seed=0
    )
    return decide(evaluation.figures, self_check=True)


@pytest.fixture
def world() -> People:
    return People(120, 4, seed=0)


def moved_towards(parent: np.ndarray, truth: np.ndarray, share: float) -> np.ndarray:
    """Features between the parent's and the truth, with the magnitudes of the parent."""
    moved = (1 - share) * parent + share * truth
    norms = [np.linalg.norm(features, axis=1, keepdims=True) for features in (parent, moved)]
    return (moved * norms[0] / norms[1]).astype(np.float32)


def test_learning_is_told_from_luck(world: People) -> None:
    parent, truth = world.features(2.5), world.features(0.3)
    assert failed(verdict_on(world, parent, moved_towards(parent, truth, 0.3))) == set()
    # Random changes make some pairs better by chance.
    lucky = moved_towards(parent, world.features(1e6), 0.1)
    assert "heldout_gain" in failed(verdict_on(world, parent, lucky))


def test_a_candidate_that_is_lucky_on_twenty_pairs_is_refused(world: People) -> None:
    parent, truth = world.features(2.5), world.features(0.3)
    few = verdict_on(world, parent, moved_towards(parent, truth, 0.3), held_out=(40, 43))
    assert {"heldout_people", "heldout_pairs"} <= failed(few)


def test_better_on_the_feedback_but_worse_in_general_is_refused(world: People) -> None:
    parent, truth = world.features(2.5), world.features(0.3)
    child = moved_towards(parent, truth, 0.3)
    forgets = ComparedFeatures(parent, moved_towards(parent, world.features(40.0), 0.5))
    evaluation = evaluate_candidate(
        ComparedFeatures(parent, child),
        world.pairs(0, 40),
        world.pairs(40, 80),
        (forgets, world.pairs(80, 120)),
        seed=0,
    )
    assert evaluation.figures.child_error < evaluation.figures.parent_error
    assert "reference_loss" in failed(decide(evaluation.figures, self_check=True))


def test_a_broken_magnitude_is_refused(world: People) -> None:
    parent, truth = world.features(2.5), world.features(0.3)
    child = moved_towards(parent, truth, 0.3)
    inflated = failed(verdict_on(world, parent, 3 * child))
    assert "magnitude_change" in inflated
    assert "heldout_gain" not in inflated
    shuffled = world.rng.permutation(np.linalg.norm(child, axis=1, keepdims=True))
    mixed_up = child / np.linalg.norm(child, axis=1, keepdims=True) * shuffled
    assert "magnitude_order" in failed(verdict_on(world, parent, mixed_up.astype(np.float32)))


def test_another_space_is_not_compatible(world: People) -> None:
    parent, truth = world.features(2.5), world.features(0.3)
    rotation = np.linalg.qr(world.rng.normal(size=(64, 64)))[0]
    verdict = verdict_on(world, parent, (truth @ rotation).astype(np.float32))
    assert "compatibility_loss" in failed(verdict)
    assert "heldout_gain" not in failed(verdict)


def test_errors_count_both_classes_the_same() -> None:
    persons = np.array([0, 0, 1, 2, 3])
    features = np.eye(5, dtype=np.float32)
    features[1] = [0.6, 0.8, 0, 0, 0]
    pairs = reference_pairs(persons, np.arange(5), seed=0)
    scores = score_pairs(pairs, features)
    assert pairs.genuine.sum() == 1
    assert balanced_error(scores, 0.5) == 0
    assert balanced_error(scores, 0.7) == pytest.approx(0.5)
    assert balanced_error(scores, -1.0) == pytest.approx(0.5)


def test_no_threshold_makes_fewer_errors_than_the_lowest(world: People) -> None:
    scores = score_pairs(world.pairs(0, 120), world.features(2.5))
    found = min(balanced_error(scores, threshold) for threshold in np.linspace(-0.5, 1, 3001))
    assert found == pytest.approx(lowest_balanced_error(scores), abs=2e-3)
    assert found >= lowest_balanced_error(scores) - 1e-9


def test_the_threshold_lies_where_both_answers_are_as_likely(world: People) -> None:
    parent, truth = world.features(2.5), world.features(0.3)
    evaluation = evaluate_candidate(
        ComparedFeatures(parent, moved_towards(parent, truth, 0.3)),
        world.pairs(0, 40),
        world.pairs(40, 80),
        (ComparedFeatures(parent, parent), world.pairs(80, 120)),
        seed=0,
    )
    assert evaluation.probability(np.array(evaluation.threshold)) == pytest.approx(0.5)


def test_an_older_versions_stored_embeddings_are_measured_too(world: People) -> None:
    parent, truth = world.features(2.5), world.features(0.3)
    child = moved_towards(parent, truth, 0.3)
    sides = world.pairs(0, 40), world.pairs(40, 80)
    assert is_backward_compatible(parent, child, *sides)
    elsewhere = (
        world.features(2.5) @ np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0]
    )
    assert not is_backward_compatible(elsewhere.astype(np.float32), child, *sides)


def test_stored_embeddings_are_compared_both_ways(world: People) -> None:
    old, new = world.features(2.5), world.features(0.3)
    pairs = world.pairs(0, 10)
    scores = score_pairs(pairs, new, old)
    assert len(scores) == 2 * len(pairs.genuine)
    a, b = pairs.images[0]
    cosine = float(new[a] @ old[b] / np.linalg.norm(new[a]) / np.linalg.norm(old[b]))
    assert scores.similarity[0] == pytest.approx(cosine, rel=1e-5)
    swapped = float(old[a] @ new[b] / np.linalg.norm(old[a]) / np.linalg.norm(new[b]))
    assert scores.similarity[len(pairs.genuine)] == pytest.approx(swapped, rel=1e-5)
