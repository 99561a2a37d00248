"""Which labels to learn from: finds the wrong ones before they are learned.

First by the similarities that the parent gives, which costs nothing. Only where these find
labels to be wrong, by those of two networks, each trained on half of the people and asked
about the other half (Northcutt et al., JAIR 2021, "Confident learning": out-of-sample
predictions): they know the images' kind better than the parent does, and none of the labels.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import Features, Indices
from services.trainer.data.dawid_skene import Trust, Values, estimate_trust
from services.trainer.data.label_report import (
    LabelReport,
    Suspect,
    Suspicion,
    surest_first,
    suspect,
)
from services.trainer.data.labels import LabelledPair
from services.trainer.data.pair_graph import PairGraph, build_graph, groups, links_of
from shared.evaluation.scores import pair_similarity

# Right labels alone gave up to 0.010 on real faces; one in twenty wrong, 0.029 and more.
_SUSPICIOUS_SHARE = 0.02
_UNLIKELY = 0.5


class TrainOnSome(Protocol):
    """Trains a network on some people."""

    def __call__(self, graph: PairGraph, images: Indices) -> Features:
        """Give float32 [N, D] of all N images under a network trained on `images` of them."""


@dataclass(frozen=True)
class Assessment:
    """Labels to learn from, and what was found out about all of them."""

    pairs: tuple[LabelledPair, ...]
    report: LabelReport


def assess(
    images: Sequence[str],
    pairs: Sequence[LabelledPair],
    parent: Features,
    train: TrainOnSome | None,
) -> Assessment:
    """Weight labels by their probability to be right, and leave the unlikely ones out.

    Where next to none seem wrong all are left as they are: what is right but hard to see
    is what there is to learn.

    Args:
        images: SHA-256 of the N images.
        pairs: Labels on them.
        parent: float32 [N, D], the parent's features.
        train: Makes the two networks; None takes the labels as they are in any case.
    """
    links = links_of(images, pairs)
    trust = estimate_trust(pairs, _similarity(parent, links))
    treated = train is not None and trust.wrong_share >= _SUSPICIOUS_SHARE
    if train is not None and treated:
        graph = build_graph(images, _weighted(pairs, trust))
        trust = estimate_trust(pairs, _out_of_fold(graph, links, train))
    kept = _weighted(pairs, trust) if treated else tuple(pairs)
    return Assessment(kept, _report(images, pairs, kept, trust, treated))


def _similarity(features: Features, links: Indices) -> Values:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return pair_similarity(unit, links)


def _weighted(pairs: Sequence[LabelledPair], trust: Trust) -> tuple[LabelledPair, ...]:
    # The share of the votes gives way to a probability that has taken them in.
    return tuple(
        replace(pair, confidence=float(right))
        for pair, right in zip(pairs, trust.right, strict=True)
        if 1 - right < _UNLIKELY
    )


def _out_of_fold(graph: PairGraph, links: Indices, train: TrainOnSome) -> Values:
    """Similarity of each pair under the network that was not trained on its people."""
    first = _halves(graph)
    by_first, by_second = (
        _similarity(train(graph, np.flatnonzero(side)), links) for side in (first, ~first)
    )
    # A pair across the halves is known to neither network as a pair.
    share_in_first = first[links].mean(axis=1)
    return np.asarray(share_in_first * by_second + (1 - share_in_first) * by_first)


def _halves(graph: PairGraph) -> NDArray[np.bool_]:
    """Mark the images of about half of the people, bool [N]; no family is on both sides."""
    first = np.zeros(len(graph.images), np.bool_)
    families = groups(np.arange(len(graph.images)), graph.family)
    taken = [0, 0]
    for family in sorted(families, key=len, reverse=True):
        side = int(taken[1] < taken[0])
        first[family] = side == 0
        taken[side] += len(family)
    return first


def _report(
    images: Sequence[str],
    pairs: Sequence[LabelledPair],
    kept: Sequence[LabelledPair],
    trust: Trust,
    treated: bool,
) -> LabelReport:
    wrong = {
        (pair.sha256_a, pair.sha256_b): float(1 - right)
        for pair, right in zip(pairs, trust.right, strict=True)
    }

    def suspects(some: Iterable[LabelledPair], why: Suspicion) -> list[Suspect]:
        return [suspect(pair, wrong[pair.sha256_a, pair.sha256_b], why) for pair in some]

    unlikely = [pair for pair in pairs if wrong[pair.sha256_a, pair.sha256_b] >= _UNLIKELY]
    contradictory = set(build_graph(images, kept).set_aside) - set(unlikely)
    found = [
        *suspects(unlikely, Suspicion.UNLIKELY),
        *suspects(contradictory, Suspicion.CONTRADICTION),
    ]
    return LabelReport(
        pairs=len(pairs),
        wrong_share=trust.wrong_share,
        treated=treated,
        suspects=surest_first(found),
        annotators=trust.annotators,
    )
