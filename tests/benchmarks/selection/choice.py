"""How the selection benchmark chooses pairs: as the service does, without a database."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.pool.calibration import Calibration
from services.feedback.selection.arrays import FloatArray, IndexArray
from services.feedback.selection.match_probability import MatchProbability, prior_match_probability
from services.feedback.selection.strategies import (
    MIX,
    Pair,
    PoolView,
    Strategy,
    choose,
)

_NEIGHBOURS: Final = 20
# Of every mix that is handed out, so that estimates stay honest.
_RANDOM_SHARE: Final = 0.1
_ROUND: Final = 100
# Labels after which a new version takes over the pool, where one does.
_RETRAINED: Final = 200

Shares = Mapping[Strategy, float]


def shares_of(strategy: str) -> Shares:
    """What is asked for by the name of a row's strategy."""
    if strategy == "default":
        mix = {one: (1 - _RANDOM_SHARE) * share for one, share in MIX.items()}
        return mix | {Strategy.RANDOM: _RANDOM_SHARE}
    return {Strategy(strategy): 1.0}


@dataclass(frozen=True)
class PoolLook:
    """What one model version sees of a pool of N images.

    Attributes:
        embeddings: float32 [N, D], of unit length.
        quality: float32 [N], 0..1.
        calibration: Of the version.
    """

    embeddings: NDArray[np.float32]
    quality: NDArray[np.float32]
    calibration: Calibration

    @cached_property
    def view(self) -> PoolView:
        """Every image linked to its nearest neighbours, as the service does with pgvector."""
        similarity = self.embeddings @ self.embeddings.T
        np.fill_diagonal(similarity, -np.inf)
        near = np.argpartition(-similarity, _NEIGHBOURS - 1, axis=1)[:, :_NEIGHBOURS]
        anchors = np.repeat(np.arange(len(self.embeddings)), _NEIGHBOURS)
        links = np.column_stack((anchors, near.ravel())).astype(np.int64)
        found = similarity[links[:, 0], links[:, 1]].astype(np.float64)
        neighbour_mean = found.reshape(-1, _NEIGHBOURS).mean(axis=1)
        return PoolView(self.quality.astype(np.float64), neighbour_mean, links, found)

    def similarity(self, pairs: IndexArray) -> FloatArray:
        """Of the images of pairs [P, 2]: float [P]."""
        sides = self.embeddings[pairs[:, 0]], self.embeddings[pairs[:, 1]]
        return np.asarray(np.einsum("nd,nd->n", *sides), np.float64)

    def csls(self, pairs: IndexArray) -> FloatArray:
        """How far pairs [P, 2] stand out: float [P]."""
        return np.asarray(self.similarity(pairs) - self.view.neighbour_mean[pairs].mean(axis=1))

    def model(self, pairs: IndexArray, same: NDArray[np.bool_]) -> MatchProbability:
        """What labels say of how likely this version's links are genuine."""
        at_first = prior_match_probability(self.calibration, self.view.csls())
        return at_first.fit(self.similarity(pairs), self.csls(pairs), same)

    def beside(self, other: "PoolLook", pairs: IndexArray, same: NDArray[np.bool_]) -> PoolView:
        """The view, with what another version says of its links, which has the same labels."""
        links = self.view.links
        similarity, csls = other.similarity(links), other.csls(links)
        model = other.model(pairs, same)
        return replace(self.view, other_probability=model.probability(similarity, csls))


def choose_in_rounds(
    parent: PoolLook,
    shares: Shares,
    count: int,
    *,
    persons: NDArray[np.int64],
    rng: np.random.Generator,
    retrain: Callable[[IndexArray], PoolLook] | None = None,
) -> IndexArray:
    """Choose a hundred at a time, each time with the model that the labels so far give.

    Disagreement says nothing before there is a second version; until then the default chooses.

    Args:
        parent: The pool as the first version sees it.
        shares: Of the strategies.
        count: Labels in all.
        persons: [N], the truth, by which each choice is labelled.
        rng: Draws.
        retrain: Makes the version that takes over the pool from the pairs labelled so far;
            None leaves the pool to the parent.

    Returns:
        int64 [P, 2], fewer than `count` where the pool gives no more. The first of them are
        what a smaller count would have given.
    """
    look, before = parent, None
    chosen = np.zeros((0, 2), np.int64)
    while len(chosen) < count:
        if retrain is not None and len(chosen) and len(chosen) % _RETRAINED == 0:
            look, before = retrain(chosen), look
        same = persons[chosen[:, 0]] == persons[chosen[:, 1]]
        alone = before is None and set(shares) == {Strategy.DISAGREEMENT}
        part = choose_mix(
            look.view if before is None else look.beside(before, chosen, same),
            look.model(chosen, same),
            shares_of("default") if alone else shares,
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
) -> IndexArray:
    """Choose pairs as annotators who ask for a mix get them.

    Args:
        view: What to choose from.
        model: How likely its links are genuine.
        shares: Of each strategy; what one cannot fill goes to the others.
        count: How many at most.
        rng: Draws.
        known: Pairs that are not to be asked about.

    Returns:
        int64 [P, 2], distinct pairs in the order in which they would be handed out.
    """
    queues = {
        one: choose(view, model, one, count, rng, known=known).pairs.tolist() for one in shares
    }
    done: dict[Pair, None] = {}
    while len(done) < count and (left := [one for one in shares if queues[one]]):
        odds = np.array([shares[one] for one in left])
        strategy = left[int(rng.choice(len(left), p=odds / odds.sum()))]
        first, second = queues[strategy].pop(0)
        done[first, second] = None
    return np.array(list(done), np.int64).reshape(-1, 2)


def draw_uniform(images: int, count: int, rng: np.random.Generator) -> IndexArray:
    """Draw distinct pairs of N images uniformly: int64 [P, 2], nearly all of them impostors."""
    drawn: set[Pair] = set()
    for first, second in rng.integers(images, size=(4 * count, 2)).tolist():
        if len(drawn) < count and first != second:
            drawn.add((min(first, second), max(first, second)))
    return np.array(sorted(drawn), np.int64).reshape(-1, 2)
