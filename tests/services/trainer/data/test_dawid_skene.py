"""Estimates of wrong labels and unreliable annotators."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from services.trainer.data.arrays import IndexArray
from services.trainer.data.dawid_skene import LabelCorrectness, estimate_correctness
from services.trainer.data.label_noise import LabelAssessment, assess_labels
from services.trainer.data.label_report import Suspicion
from services.trainer.data.labels import LabelledPair, Vote
from services.trainer.data.pair_graph import PairGraph
from shared.errors import PreconditionFailed


def labelled(same: Sequence[bool], annotator: str = "ada") -> list[LabelledPair]:
    return [
        LabelledPair(f"a{i:04d}", f"b{i:04d}", bool(label), votes=(Vote(annotator, bool(label)),))
        for i, label in enumerate(same)
    ]


def estimated(pairs: Sequence[LabelledPair], similarity: NDArray[np.float64]) -> LabelCorrectness:
    """Estimate with the same weight for each pair."""
    return estimate_correctness(pairs, similarity, np.ones(len(pairs)))


def similarities(genuine: NDArray[np.bool_], seed: int = 0) -> NDArray[np.float64]:
    """Similarities of a network that decides about one pair in fourteen wrongly."""
    noise = np.random.default_rng([seed, 1]).normal(size=len(genuine))
    return np.where(genuine, 0.46 + 0.16 * noise, 0.03 + 0.12 * noise)


def truth(pairs: int, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng([seed, 2]).random(pairs) < 0.5


def flips(pairs: int, share: float, seed: int = 0) -> NDArray[np.bool_]:
    return np.random.default_rng([seed, 3]).random(pairs) < share


@pytest.mark.parametrize("seed", range(5))
def test_one_label_in_five_that_is_wrong_is_found(seed: int) -> None:
    genuine, wrong = truth(1000, seed), flips(1000, 0.2, seed)
    estimate = estimated(labelled(genuine ^ wrong), similarities(genuine, seed))
    found = estimate.probability < 0.5
    precision, recall = (found & wrong).sum() / found.sum(), (found & wrong).sum() / wrong.sum()
    assert precision > 0.85
    assert recall > 0.8
    assert estimate.wrong_share == pytest.approx(wrong.mean(), abs=0.03)


@pytest.mark.parametrize("seed", range(5))
def test_right_labels_are_trusted(seed: int) -> None:
    genuine = truth(1000, seed)
    estimate = estimated(labelled(genuine), similarities(genuine, seed))
    assert estimate.wrong_share < 0.01
    assert (estimate.probability < 0.5).mean() < 0.01


def test_the_probability_means_what_it_says() -> None:
    genuine, wrong = truth(4000), flips(4000, 0.2)
    right = estimated(labelled(genuine ^ wrong), similarities(genuine)).probability
    for low in (0.1, 0.3, 0.5, 0.7):
        some = (right >= low) & (right < low + 0.2)
        assert (~wrong[some]).mean() == pytest.approx(right[some].mean(), abs=0.12)


def test_an_annotator_who_lies_is_found_though_nobody_else_saw_the_pairs() -> None:
    genuine = truth(600)
    lies = np.arange(600) % 6 == 0
    pairs = [
        replace(pair, votes=(Vote("liar" if lie else "honest", pair.same),))
        for pair, lie in zip(labelled(genuine ^ lies), lies, strict=True)
    ]
    estimate = estimated(pairs, similarities(genuine))
    liar, honest = estimate.annotators
    assert (liar.annotator, liar.votes, honest.annotator) == ("liar", 100, "honest")
    assert max(liar.sensitivity, liar.specificity) < 0.3
    assert min(honest.sensitivity, honest.specificity) > 0.95
    assert (estimate.probability[lies] < 0.5).mean() > 0.9


def test_annotators_are_told_apart_by_their_disagreement_alone() -> None:
    genuine = truth(400)
    careless = genuine ^ flips(400, 0.4)
    pairs = [
        LabelledPair(
            f"a{i:04d}",
            f"b{i:04d}",
            bool(label),
            votes=(Vote("ada", bool(label)), Vote("bob", bool(label)), Vote("eve", bool(other))),
        )
        for i, (label, other) in enumerate(zip(genuine, careless, strict=True))
    ]
    estimate = estimated(pairs, np.zeros(400))
    assert estimate.annotators[0].annotator == "eve"
    assert estimate.annotators[0].sensitivity == pytest.approx(0.6, abs=0.1)
    assert min(one.sensitivity for one in estimate.annotators[1:]) > 0.95
    assert (estimate.probability > 0.9).all()


def test_who_is_unsure_counts_neither_way() -> None:
    pairs = labelled(truth(100))
    asked = [replace(pair, votes=(*pair.votes, Vote("bob", None))) for pair in pairs]
    similarity = similarities(truth(100))
    plain, unsure = estimated(pairs, similarity), estimated(asked, similarity)
    assert np.array_equal(plain.probability, unsure.probability)
    assert [one.annotator for one in unsure.annotators] == ["ada"]


def test_an_unlike_genuine_pair_is_never_more_likely_genuine_for_being_unlike() -> None:
    """The odds of two normals of unequal width turn at one point; the far side must not count."""
    genuine = truth(500)
    similarity = np.append(similarities(genuine), [-0.5, -0.9, -1.0])
    pairs = labelled(np.append(genuine, [True, True, True]))
    half, most, all_of_it = estimated(pairs, similarity).probability[-3:]
    assert half >= most >= all_of_it


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.booleans(), st.floats(-1, 1), st.sampled_from(["ada", "bob"])), min_size=1
    )
)
def test_whatever_the_labels_are_the_trust_is_a_probability(
    rows: list[tuple[bool, float, str]],
) -> None:
    pairs = [
        LabelledPair(f"a{i}", f"b{i}", same, votes=(Vote(name, same),))
        for i, (same, _, name) in enumerate(rows)
    ]
    similarity = np.array([value for _, value, _ in rows])
    estimate = estimated(pairs, similarity)
    assert ((estimate.probability >= 0) & (estimate.probability <= 1)).all()
    assert np.array_equal(estimate.probability, estimated(pairs, similarity).probability)
    for one in estimate.annotators:
        assert 0 < one.sensitivity < 1
        assert 0 < one.specificity < 1


class Faces:
    """Made-up features: a direction for each person, and noise that depends on the network."""

    def __init__(self, people: int = 120, images: int = 4, wrong: float = 0.0) -> None:
        self._person = np.repeat(np.arange(people), images)
        self.images = [f"{i:06d}" for i in range(len(self._person))]
        generator = np.random.default_rng(4)
        own = np.arange(len(self._person)).reshape(people, images)
        self._links = np.concatenate(
            [np.stack([own[:, i], own[:, i + 1]], 1) for i in range(images - 1)]
            + [np.stack([own[:, i], np.roll(own[:, i], -1 - i)], 1) for i in range(images - 1)]
        )
        same = np.arange(len(self._links)) < len(self._links) // 2
        self.wrong = generator.random(len(same)) < wrong
        self.pairs = [
            LabelledPair(self.images[a], self.images[b], bool(label), votes=(Vote("ada", label),))
            for (a, b), label in zip(self._links, same ^ self.wrong, strict=True)
        ]
        self._direction = generator.normal(size=(people, 32))
        self.trained_on: list[IndexArray] = []

    def features(self, noise: float) -> NDArray[np.float32]:
        random = np.random.default_rng(5).normal(size=(len(self.images), 32))
        return (self._direction[self._person] + noise * random).astype(np.float32)

    def assess(
        self, pairs: Sequence[LabelledPair] | None = None, *, train: bool = True
    ) -> LabelAssessment:
        return assess_labels(
            self.images,
            self.pairs if pairs is None else pairs,
            self.features(0.8),
            self.train if train else None,
            burst=np.arange(len(self.images)),
            threshold=0.3,
        )

    def train(self, graph: PairGraph, images: IndexArray) -> NDArray[np.float32]:
        assert graph.images == tuple(self.images)
        self.trained_on.append(images)
        return self.features(0.5)


def test_right_labels_are_left_as_they_are_and_cost_no_training() -> None:
    faces = Faces()
    assessment = faces.assess()
    assert assessment.pairs == tuple(faces.pairs)
    assert not assessment.report.treated
    assert not faces.trained_on


def test_wrong_labels_are_left_out_and_listed() -> None:
    faces = Faces(wrong=0.2)
    assessment = faces.assess()
    report = assessment.report
    assert report.treated
    assert report.pairs == len(faces.pairs)
    wrong = {pair.sha256_a + pair.sha256_b for pair in np.array(faces.pairs)[faces.wrong]}
    used = {pair.sha256_a + pair.sha256_b for pair in assessment.pairs}
    unlikely = [one for one in report.suspects if one.reason is Suspicion.UNLIKELY]
    assert len(used & wrong) < 0.1 * len(wrong)
    assert not used & {one.sha256_a + one.sha256_b for one in unlikely}
    assert len(used) + len(unlikely) == len(faces.pairs)
    probabilities = [one.wrong_probability for one in report.suspects]
    assert probabilities == sorted(probabilities, reverse=True)
    assert unlikely[0].annotators == ("ada",)


def test_the_halves_share_nobody_and_leave_out_nobody() -> None:
    faces = Faces(wrong=0.2)
    faces.assess()
    one, other = faces.trained_on
    assert sorted([*one, *other]) == list(range(len(faces.images)))
    assert 0.3 < len(one) / len(faces.images) < 0.7


def test_the_seeds_recipe_takes_labels_as_they_are_but_lists_them() -> None:
    faces = Faces(wrong=0.2)
    assessment = faces.assess(train=False)
    assert assessment.pairs == tuple(faces.pairs)
    assert assessment.report.suspects


def test_labels_that_contradict_each_other_are_listed() -> None:
    faces = Faces()
    a, b, c = faces.images[:3]
    pairs = [*faces.pairs, LabelledPair(a, c, same=False, votes=(Vote("bob", False),))]
    report = faces.assess(pairs).report
    contradictory = {
        (one.sha256_a, one.sha256_b) for one in report.suspects if (one.sha256_a, one.sha256_b)
    }
    assert (a, c) in contradictory
    assert {(a, b), (b, c)} & contradictory


def test_labels_that_cannot_be_enough_are_refused_before_anything_is_trained() -> None:
    faces = Faces(people=25, wrong=0.2)
    with pytest.raises(PreconditionFailed, match="more pairs SAME, each of another person"):
        faces.assess()
    assert not faces.trained_on
