"""Choice of pairs by the functions of the feedback service, without a database."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.pool.calibration import Calibration
from services.feedback.selection.match_probability import MatchProbability, prior_match_probability
from services.feedback.selection.strategies import (
    MIX,
    Pair,
    PoolView,
    Strategy,
    choose,
)

_NEIGHBOURS: Final = 20
# Share of random pairs in every mix, which keeps estimates unbiased.
_RANDOM_SHARE: Final = 0.1
_ROUND: Final = 100
# Number of labels after which a new version embeds the pool, in retrained rows.
_RETRAINED: Final = 200

Shares = Mapping[Strategy, float]


def shares_of(strategy: str) -> Shares:
    """Give the share of each of the service's strategies in a row's strategy."""
    if strategy == "default":
        mix = {one: (1 - _RANDOM_SHARE) * share for one, share in MIX.items()}
        return mix | {Strategy.RANDOM: _RANDOM_SHARE}
    return {Strategy(strategy): 1.0}


@dataclass(frozen=True)
class EmbeddedPool:
    """A pool of N images, embedded by one model version.

    Attributes:
        embeddings: float32 [N, D], of unit length.
        quality: float32 [N], 0..1.
        calibration: Calibration of the version.
    """

    embeddings: NDArray[np.float32]
    quality: NDArray[np.float32]
    calibration: Calibration

    @cached_property
    def view(self) -> PoolView:
        """Link every image to its nearest neighbours, as the service does with pgvector."""
        similarity = self.embeddings @ self.embeddings.T
        np.fill_diagonal(similarity, -np.inf)
        near = np.argpartition(-similarity, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        anchors = np.repeat(np.arange(len(self.embeddings)), _NEIGHBOURS)
        links = np.column_stack((anchors, near.ravel())).astype(np.int64)
        scores = similarity[links[:, 0], links[:, 1]].astype(np.float64)
        neighbour_mean = scores.reshape(-1, _NEIGHBOURS).mean(axis=1)
        return PoolView(self.quality.astype(np.float64), neighbour_mean, links, scores)

    def similarity(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """Similarity of pairs [P, 2]: float64 [P]."""
        sides = self.embeddings[pairs[:, 0]], self.embeddings[pairs[:, 1]]
        return np.asarray(np.einsum("nd,nd->n", *sides), np.float64)

    def csls(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """How far pairs [P, 2] stand out: float [P]."""
        return np.asarray(self.similarity(pairs) - self.view.neighbour_mean[pairs].mean(axis=1))

    def model(self, pairs: NDArray[np.int64], same: NDArray[np.bool_]) -> MatchProbability:
        """Fit the match probability of this version's links to labelled pairs."""
        prior = prior_match_probability(self.calibration, self.view.csls())
        return prior.fit(self.similarity(pairs), self.csls(pairs), same)

    def view_with_other(
        self, other: "EmbeddedPool", pairs: NDArray[np.int64], same: NDArray[np.bool_]
    ) -> PoolView:
        """The view, with the match probability of its links under another version."""
        links = self.view.links
        similarity, csls = other.similarity(links), other.csls(links)
        model = other.model(pairs, same)
        return replace(self.view, other_probability=model.probability(similarity, csls))


def choose_in_rounds(
    parent: EmbeddedPool,
    shares: Shares,
    count: int,
    *,
    persons: NDArray[np.int64],
    rng: np.random.Generator,
    retrain: Callable[[NDArray[np.int64]], EmbeddedPool] | None = None,
) -> NDArray[np.int64]:
    """Choose 100 pairs at a time, with the match probability fitted to the labels so far.

    Disagreement needs two versions. Before there is a second one, the default mix is used.

    Args:
        parent: The pool, embedded by the parent.
        shares: Share of each strategy.
        count: Number of pairs.
        persons: int64 [N], the person in each image, from which pairs get their labels.
        rng: Random generator.
        retrain: Makes the pool embedded by a new version, from the pairs labelled so far; None
            keeps the parent's embeddings.

    Returns:
        int64 [P, 2], fewer than `count` if the pool has no more. The result for a smaller count
        is the start of it.
    """
    pool, previous = parent, None
    chosen = np.zeros((0, 2), np.int64)
    while len(chosen) < count:
        if retrain is not None and len(chosen) and len(chosen) % _RETRAINED == 0:
            pool, previous = retrain(chosen), pool
        same = persons[chosen[:, 0]] == persons[chosen[:, 1]]
        needs_default = previous is None and set(shares) == {Strategy.DISAGREEMENT}
        part = choose_mix(
            pool.view if previous is None else pool.view_with_other(previous, chosen, same),
            pool.model(chosen, same),
            shares_of("default") if needs_default else shares,
            min(_ROUND, count - len(chosen)),
            rng,
            known=[(first, second) for first, second in chosen.tolist()],
        )
        if len(part) == 0:
            break
        chosen = np.concatenate((chosen, part))
    return chosen


def choose_mix(
    view: PoolView,
    model: MatchProbability,
    shares: Mapping[Strategy, float],
    count: int,
    rng: np.random.Generator,
    *,
    known: Collection[Pair] = (),
) -> NDArray[np.int64]:
    """Choose pairs as annotators get them who ask for a mix.

    Args:
        view: The pool.
        model: Match probability of its links.
        shares: Share of each strategy; pairs that one lacks are taken from the others.
        count: Most pairs to choose.
        rng: Random generator.
        known: Pairs to leave out.

    Returns:
        int64 [P, 2], distinct pairs in the order in which annotators would get them.
    """
    queues = {
        one: choose(view, model, one, count, rng, known=known).pairs.tolist() for one in shares
    }
    chosen: dict[Pair, None] = {}
    while len(chosen) < count and (left := [one for one in shares if queues[one]]):
        odds = np.array([shares[one] for one in left])
        strategy = left[int(rng.choice(len(left), p=odds / odds.sum()))]
        first, second = queues[strategy].pop(0)
        chosen[first, second] = None
    return np.array(list(chosen), np.int64).reshape(-1, 2)


def draw_uniform(images: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw distinct pairs of N images uniformly: int64 [P, 2], nearly all of them impostors."""
    drawn: set[Pair] = set()
    for first, second in rng.integers(images, size=(4 * count, 2)).tolist():
        if len(drawn) < count and first != second:
            drawn.add((min(first, second), max(first, second)))
    return np.array(sorted(drawn), np.int64).reshape(-1, 2)
