"""Selection strategies: which pairs of a pool to label next, as pure functions over arrays.

The service and the benchmark of the strategies share them. Images are numbered from 0; a link
leads from an image to one of its nearest neighbours.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.selection.identity_clusters import cluster
from services.feedback.selection.match_probability import MatchProbability


class Strategy(StrEnum):
    """How a pair was selected."""

    UNCERTAINTY = "uncertainty"
    DISAGREEMENT = "disagreement"
    HARD = "hard"
    RANDOM = "random"
    GOLD = "gold"


# Shares of the default, besides the random and the gold share; from `make bench-selection`.
MIX: Final[Mapping[Strategy, float]] = {
    Strategy.HARD: 0.7,
    Strategy.DISAGREEMENT: 0.2,
    Strategy.UNCERTAINTY: 0.1,
}

Pair = tuple[int, int]

# The score of the worst of the links by quality is multiplied by this weight, which rises to 1
# over this share of the links.
_LOWEST_WEIGHT: Final = 0.5
_WORST_SHARE: Final = 0.3
# Two images count as one person's, for the caps, from this probability on.
_SAME_PERSON: Final = 0.95


@dataclass(frozen=True, slots=True)
class Caps:
    """Most pairs with one image, and with one person as far as known or guessed."""

    image: int = 4
    person: int = 12


@dataclass(frozen=True, slots=True)
class PoolView:
    """N images and L links between them, to choose pairs from.

    Attributes:
        quality: float [N], 0..1.
        neighbour_mean: float [N], mean similarity of an image to its nearest neighbours.
        links: int64 [L, 2], from an image to a neighbour; may hold both directions.
        similarity: float [L], of the links.
        persons: int64 [N], the person on each image if known, else -1; None if none is known.
        other_probability: float [L], probability that a link is genuine by another model
            version; None without another version.
    """

    quality: NDArray[np.float64]
    neighbour_mean: NDArray[np.float64]
    links: NDArray[np.int64]
    similarity: NDArray[np.float64]
    persons: NDArray[np.int64] | None = None
    other_probability: NDArray[np.float64] | None = None

    def csls(self) -> NDArray[np.float64]:
        """Similarity of each link less the mean similarity of its images to their neighbours.

        Half of the CSLS of Conneau et al. 2018; see `match_probability`.

        Returns:
            float [L].
        """
        return np.asarray(self.similarity - self.neighbour_mean[self.links].mean(axis=1))


@dataclass(frozen=True, slots=True)
class Choice:
    """Chosen pairs, best first.

    Attributes:
        pairs: int64 [P, 2], smaller number first.
        scores: float [P].
    """

    pairs: NDArray[np.int64]
    scores: NDArray[np.float64]


def scores(view: PoolView, model: MatchProbability, strategy: Strategy) -> NDArray[np.float64]:
    """Score each link by a strategy: float [L], 0..1; links with 0 are not to be labelled."""
    probability = model.probability(view.similarity, view.csls())
    uncertainty = 1 - np.abs(2 * probability - 1)
    match strategy:
        case Strategy.UNCERTAINTY:
            score = uncertainty
        case Strategy.HARD:
            # Each image has a closest link of its own, which scores at least one half.
            closest = _closest(view.links[:, 0], probability - 0.5)
            score = np.where(closest, (1 + uncertainty) / 2, 0)
        case Strategy.DISAGREEMENT if view.other_probability is not None:
            score = np.abs(view.other_probability - probability)
        case _:
            score = np.zeros(len(view.links))
    return np.asarray(score * _quality_weight(view))


def choose(
    view: PoolView,
    model: MatchProbability,
    strategy: Strategy,
    count: int,
    rng: np.random.Generator,
    *,
    known: Collection[Pair] = (),
    caps: Caps = Caps(),
) -> Choice:
    """Choose pairs by a strategy, best first, within the caps on images and persons.

    Args:
        view: The images and links.
        model: Gives the probability that a link is genuine.
        strategy: RANDOM draws links uniformly, without caps.
        count: Most pairs to choose.
        rng: Breaks ties.
        known: Pairs that are not to be chosen; they count for the caps.
        caps: Most pairs of an image and of a person.
    """
    uniform = strategy is Strategy.RANDOM
    counter = _PairCounter(_guess_persons(view, model), None if uniform else caps)
    for pair in known:
        counter.count(pair)
    unknown = _without(view, known)
    score = rng.random(len(unknown.links)) if uniform else scores(unknown, model, strategy)
    chosen: list[int] = []
    for link in np.lexsort((rng.random(len(score)), -score)).tolist():
        if len(chosen) == count or score[link] <= 0:
            break
        if counter.try_count(_pair(unknown.links[link])):
            chosen.append(link)
    return Choice(np.sort(unknown.links[chosen], axis=1), score[chosen])


def _without(view: PoolView, known: Collection[Pair]) -> PoolView:
    """The same pool without the links of some pairs."""
    images = len(view.quality)
    numbers = np.sort(view.links, axis=1) @ (images, 1)
    unknown = ~np.isin(numbers, [first * images + second for first, second in known])
    other = view.other_probability
    return replace(
        view,
        links=view.links[unknown],
        similarity=view.similarity[unknown],
        other_probability=None if other is None else other[unknown],
    )


class _PairCounter:
    """Counts pairs by image and person.

    Args:
        persons: int64 [N], the person on each image.
        caps: Limits of `try_count`; None to only keep pairs distinct.
    """

    def __init__(self, persons: NDArray[np.int64], caps: Caps | None) -> None:
        self._persons = persons
        self._caps = caps
        self._pairs: set[Pair] = set()
        self._by_image: Counter[int] = Counter()
        self._by_person: Counter[int] = Counter()

    def try_count(self, pair: Pair) -> bool:
        """Count a pair unless it was counted before or a cap is reached; says whether."""
        if pair in self._pairs or self._is_capped(pair):
            return False
        self.count(pair)
        return True

    def count(self, pair: Pair) -> None:
        self._pairs.add(pair)
        self._by_image.update(pair)
        self._by_person.update(self._persons_of(pair))

    def _persons_of(self, pair: Pair) -> set[int]:
        return {int(self._persons[image]) for image in pair}

    def _is_capped(self, pair: Pair) -> bool:
        return self._caps is not None and (
            max(self._by_image[image] for image in pair) >= self._caps.image
            or max(self._by_person[one] for one in self._persons_of(pair)) >= self._caps.person
        )


def _pair(link: NDArray[np.int64]) -> Pair:
    first, second = sorted(link.tolist())
    return first, second


def _quality_weight(view: PoolView) -> NDArray[np.float64]:
    """Reduce the score of links whose worse image ranks low, which are unclear for that alone."""
    worse = np.minimum(view.quality[view.links[:, 0]], view.quality[view.links[:, 1]])
    rank = np.searchsorted(np.sort(worse), worse, side="right") / max(len(worse), 1)
    return np.asarray(_LOWEST_WEIGHT + (1 - _LOWEST_WEIGHT) * np.minimum(rank / _WORST_SHARE, 1.0))


def _closest(anchors: NDArray[np.int64], distance: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark, for each image, its link of the smallest distance on either side of 0."""
    marked = np.zeros(len(distance), bool)
    for side in (distance >= 0, distance < 0):
        links = np.flatnonzero(side)
        order = links[np.lexsort((np.abs(distance[links]), anchors[links]))]
        first = np.ones(len(order), bool)
        first[1:] = anchors[order[1:]] != anchors[order[:-1]]
        marked[order[first]] = True
    return marked


def _guess_persons(view: PoolView, model: MatchProbability) -> NDArray[np.int64]:
    same = model.probability(view.similarity, view.csls()) >= _SAME_PERSON
    return cluster(len(view.quality), view.links[same], view.similarity[same], view.persons)
