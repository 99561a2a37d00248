"""Label noise: finds wrong labels before training, and weights the others.

First by the similarities under the parent, which costs nothing. Only if these show wrong labels,
by the similarities under two networks, each trained on half of the people and used on the other
half: out-of-sample predictions as in Northcutt et al., JAIR 2021, "Confident learning". Such a
network knows the kind of image better than the parent, and has seen none of the labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import FeatureArray, IndexArray
from services.trainer.data.dawid_skene import (
    LabelCorrectness,
    ScoreArray,
    estimate_correctness,
)
from services.trainer.data.influence import pair_weights
from services.trainer.data.label_report import (
    LabelReport,
    Suspect,
    Suspicion,
    sort_suspects,
    suspect,
)
from services.trainer.data.labels import LabelledPair
from services.trainer.data.pair_graph import PairGraph, build_graph, components, group_by, links_of
from services.trainer.data.people_split import require_people
from shared.evaluation.scores import pair_similarity

# Expected share of wrong labels from which labels are weighted. On real faces correct labels
# alone gave up to 0.010; with one label in twenty wrong it was 0.029 and more.
_MIN_WRONG_SHARE = 0.02
_UNLIKELY = 0.5


class TrainOnSubset(Protocol):
    """Trains a copy of the parent on some of the images."""

    def __call__(self, graph: PairGraph, images: IndexArray) -> FeatureArray:
        """Return the features of all N images, float32 [N, D], after training on `images`."""


@dataclass(frozen=True)
class LabelAssessment:
    """The labels to train on, and the report on all labels."""

    pairs: tuple[LabelledPair, ...]
    report: LabelReport


def assess_labels(
    images: Sequence[str],
    pairs: Sequence[LabelledPair],
    parent: FeatureArray,
    train: TrainOnSubset | None,
    *,
    burst: IndexArray,
    threshold: float,
) -> LabelAssessment:
    """Weight labels by their probability of being correct, and drop the unlikely ones.

    If next to none seem wrong, all labels stay as they are: correct labels on difficult pairs
    are what there is to learn from.

    In the estimate no person and no burst of near-identical pictures outweighs the others. There,
    whom images show is taken from labels SAME on pairs that the parent finds similar, so that wrong
    labels do not make two people one.

    Args:
        images: SHA-256 of the N images.
        pairs: Labelled pairs of these images.
        parent: float32 [N, D], the parent's features.
        train: Trains the two networks; None leaves the labels as they are in any case.
        burst: int64 [N], see `influence.find_bursts`.
        threshold: Similarity from which the parent decides SAME.

    Raises:
        PreconditionFailed: If neither all labels nor those that the parent finds likely show
            enough people; nothing is trained then.
    """
    links = links_of(images, pairs)
    similarity = _similarity(parent, links)
    same = np.array([pair.same for pair in pairs], np.bool_)
    person = components(len(images), links[same & (similarity >= threshold)])
    weight = pair_weights(links, same, person, burst)
    correctness = estimate_correctness(pairs, similarity, weight)
    treated = train is not None and correctness.wrong_share >= _MIN_WRONG_SHARE
    if train is not None and treated:
        graph = build_graph(images, _weighted(pairs, correctness), burst)
        require_people(build_graph(images, pairs, burst), graph)
        similarity = _out_of_fold_similarity(graph, links, train)
        correctness = estimate_correctness(pairs, similarity, weight)
    used = _weighted(pairs, correctness) if treated else tuple(pairs)
    return LabelAssessment(used, _report(images, pairs, used, correctness, treated))


def probable_labels(
    images: Sequence[str],
    pairs: Sequence[LabelledPair],
    features: FeatureArray,
    *,
    burst: IndexArray,
    threshold: float,
) -> tuple[LabelledPair, ...]:
    """Weight labels and drop the unlikely ones, as `assess_labels` does, without a training.

    Args:
        images: SHA-256 of the N images.
        pairs: Labelled pairs of these images.
        features: float32 [N, D], of networks that were trained on none of these people.
        burst: int64 [N], see `influence.find_bursts`.
        threshold: Similarity from which the decision is SAME.
    """
    links = links_of(images, pairs)
    similarity = _similarity(features, links)
    same = np.array([pair.same for pair in pairs], np.bool_)
    person = components(len(images), links[same & (similarity >= threshold)])
    correctness = estimate_correctness(pairs, similarity, pair_weights(links, same, person, burst))
    treated = correctness.wrong_share >= _MIN_WRONG_SHARE
    return _weighted(pairs, correctness) if treated else tuple(pairs)


def _similarity(features: FeatureArray, links: IndexArray) -> ScoreArray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return pair_similarity(unit, links)


def _weighted(
    pairs: Sequence[LabelledPair], correctness: LabelCorrectness
) -> tuple[LabelledPair, ...]:
    # The probability replaces the share of the votes, which it already accounts for.
    return tuple(
        replace(pair, confidence=float(probability))
        for pair, probability in zip(pairs, correctness.probability, strict=True)
        if 1 - probability < _UNLIKELY
    )


def _out_of_fold_similarity(
    graph: PairGraph, links: IndexArray, train: TrainOnSubset
) -> ScoreArray:
    """Similarity [P] of each pair under the network that was not trained on its people."""
    first = _first_half(graph)
    by_first, by_second = (
        _similarity(train(graph, np.flatnonzero(side)), links) for side in (first, ~first)
    )
    # A pair with one image in each half was a training pair of neither network.
    share_in_first = first[links].mean(axis=1)
    return np.asarray(share_in_first * by_second + (1 - share_in_first) * by_first)


def _first_half(graph: PairGraph) -> NDArray[np.bool_]:
    """Mark the images of about half of the people, bool [N], by whole components."""
    first = np.zeros(len(graph.images), np.bool_)
    components = group_by(np.arange(len(graph.images)), graph.component)
    sizes = [0, 0]
    for component in sorted(components, key=len, reverse=True):
        side = int(sizes[1] < sizes[0])
        first[component] = side == 0
        sizes[side] += len(component)
    return first


def _report(
    images: Sequence[str],
    pairs: Sequence[LabelledPair],
    used: Sequence[LabelledPair],
    correctness: LabelCorrectness,
    treated: bool,
) -> LabelReport:
    wrong = {
        (pair.sha256_a, pair.sha256_b): float(1 - probability)
        for pair, probability in zip(pairs, correctness.probability, strict=True)
    }

    def suspects(some: Iterable[LabelledPair], reason: Suspicion) -> list[Suspect]:
        return [suspect(pair, wrong[pair.sha256_a, pair.sha256_b], reason) for pair in some]

    unlikely = [pair for pair in pairs if wrong[pair.sha256_a, pair.sha256_b] >= _UNLIKELY]
    contradictory = set(build_graph(images, used).excluded) - set(unlikely)
    return LabelReport(
        pairs=len(pairs),
        wrong_share=correctness.wrong_share,
        treated=treated,
        suspects=sort_suspects(
            [
                *suspects(unlikely, Suspicion.UNLIKELY),
                *suspects(contradictory, Suspicion.CONTRADICTION),
            ]
        ),
        annotators=correctness.annotators,
    )
