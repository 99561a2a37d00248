"""Which pairs of a pool are worth a person's time: pure functions over arrays.

The service and the benchmark that measures the strategies share them. Images are numbered
from 0; a link goes from an image to one of its nearest neighbours.
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
    """By what a pair was chosen."""

    UNCERTAINTY = "uncertainty"
    DISAGREEMENT = "disagreement"
    HARD = "hard"
    RANDOM = "random"
    GOLD = "gold"


# What the default asks for, beside the random share; by `make bench-selection`.
MIX: Final[Mapping[Strategy, float]] = {
    Strategy.HARD: 0.7,
    Strategy.DISAGREEMENT: 0.2,
    Strategy.UNCERTAINTY: 0.1,
}


FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.int64]
Pair = tuple[int, int]

# The worst of the links by quality are worth this share of their score, rising to all of it.
_LOWEST_WEIGHT: Final = 0.5
_WORST_SHARE: Final = 0.3
# Two images are taken for one person's, where a cap asks, from this probability on.
_SURELY_SAME: Final = 0.95


@dataclass(frozen=True, slots=True)
class Caps:
    """How often one image, and one person as far as known or guessed, may be asked about."""

    image: int = 4
    person: int = 12


@dataclass(frozen=True, slots=True)
class PoolView:
    """What a choice is made from: N images and L links between them.

    Attributes:
        quality: float [N], 0..1.
        density: float [N], mean similarity of an image to its nearest neighbours.
        links: int64 [L, 2], from an image to a neighbour; both directions may be there.
        similarity: float [L], of the links.
        persons: int64 [N], who is on an image as far as known, -1 where not; None if of none.
        other: float [L], how likely links are genuine by another model version; None without.
    """

    quality: FloatArray
    density: FloatArray
    links: IndexArray
    similarity: FloatArray
    persons: IndexArray | None = None
    other: FloatArray | None = None

    def csls(self) -> FloatArray:
        """How far each link stands out: float [L]."""
        return np.asarray(self.similarity - self.density[self.links].mean(axis=1))


@dataclass(frozen=True, slots=True)
class Choice:
    """Chosen pairs, the best first: int64 [P, 2], smaller number first; and their scores."""

    pairs: IndexArray
    scores: FloatArray


def scores(view: PoolView, belief: MatchProbability, strategy: Strategy) -> FloatArray:
    """Say what each link is worth to a strategy: float [L], 0..1; 0 is not to be asked about."""
    probability = belief.probability(view.similarity, view.csls())
    unclear = 1 - np.abs(2 * probability - 1)
    match strategy:
        case Strategy.UNCERTAINTY:
            worth = unclear
        case Strategy.HARD:
            # Half a point for being the closest of its image: each image has its own.
            worth = np.where(_closest(view.links[:, 0], probability - 0.5), (1 + unclear) / 2, 0)
        case Strategy.DISAGREEMENT if view.other is not None:
            worth = np.abs(view.other - probability)
        case _:
            worth = np.zeros(len(view.links))
    return np.asarray(worth * _quality_weight(view))


def choose(
    view: PoolView,
    belief: MatchProbability,
    strategy: Strategy,
    count: int,
    rng: np.random.Generator,
    *,
    known: Collection[Pair] = (),
    caps: Caps = Caps(),
) -> Choice:
    """Choose pairs by a strategy, the best ones first, no image or person too often.

    Args:
        view: What to choose from.
        belief: How likely its links are genuine.
        strategy: By which strategy; RANDOM draws links uniformly.
        count: How many at most.
        rng: Decides between equals.
        known: Pairs that are not to be asked about; they count for the caps.
        caps: How often is too often.
    """
    drawn = strategy is Strategy.RANDOM
    tally = _Tally(_guessed_persons(view, belief), None if drawn else caps)
    for pair in known:
        tally.count(pair)
    fresh = _without(view, known)
    worth = rng.random(len(fresh.links)) if drawn else scores(fresh, belief, strategy)
    places: list[int] = []
    for place in np.lexsort((rng.random(len(worth)), -worth)).tolist():
        if len(places) == count or worth[place] <= 0:
            break
        if tally.take(_pair(fresh.links[place])):
            places.append(place)
    return Choice(np.sort(fresh.links[places], axis=1), worth[places])


def _without(view: PoolView, known: Collection[Pair]) -> PoolView:
    """The same pool without the links of some pairs."""
    images = len(view.quality)
    numbers = np.sort(view.links, axis=1) @ (images, 1)
    fresh = ~np.isin(numbers, [first * images + second for first, second in known])
    return replace(
        view,
        links=view.links[fresh],
        similarity=view.similarity[fresh],
        other=None if view.other is None else view.other[fresh],
    )


class _Tally:
    """Counts what is chosen; without caps only that nothing is chosen twice."""

    def __init__(self, persons: IndexArray, caps: Caps | None) -> None:
        self._persons = persons
        self._caps = caps
        self._done: set[Pair] = set()
        self._images: Counter[int] = Counter()
        self._owners: Counter[int] = Counter()

    def take(self, pair: Pair) -> bool:
        """Say whether a pair may be chosen, and count it if so."""
        if pair in self._done or self._full(pair):
            return False
        self.count(pair)
        return True

    def count(self, pair: Pair) -> None:
        self._done.add(pair)
        self._images.update(pair)
        self._owners.update(self._owners_of(pair))

    def _owners_of(self, pair: Pair) -> set[int]:
        return {int(self._persons[image]) for image in pair}

    def _full(self, pair: Pair) -> bool:
        return self._caps is not None and (
            max(self._images[image] for image in pair) >= self._caps.image
            or max(self._owners[owner] for owner in self._owners_of(pair)) >= self._caps.person
        )


def _pair(link: IndexArray) -> Pair:
    first, second = sorted(link.tolist())
    return first, second


def _quality_weight(view: PoolView) -> FloatArray:
    """Weigh down what is unclear only because an image is bad, by its rank among the links."""
    worse = np.minimum(view.quality[view.links[:, 0]], view.quality[view.links[:, 1]])
    rank = np.searchsorted(np.sort(worse), worse, side="right") / max(len(worse), 1)
    return np.asarray(_LOWEST_WEIGHT + (1 - _LOWEST_WEIGHT) * np.minimum(rank / _WORST_SHARE, 1.0))


def _closest(anchors: IndexArray, distance: FloatArray) -> NDArray[np.bool_]:
    """Mark, for each image, its link of the smallest distance on either side of 0."""
    marked = np.zeros(len(distance), bool)
    for side in (distance >= 0, distance < 0):
        places = np.flatnonzero(side)
        order = places[np.lexsort((np.abs(distance[places]), anchors[places]))]
        first = np.ones(len(order), bool)
        first[1:] = anchors[order[1:]] != anchors[order[:-1]]
        marked[order[first]] = True
    return marked


def _guessed_persons(view: PoolView, belief: MatchProbability) -> IndexArray:
    sure = belief.probability(view.similarity, view.csls()) >= _SURELY_SAME
    return cluster(len(view.quality), view.links[sure], view.similarity[sure], view.persons)
