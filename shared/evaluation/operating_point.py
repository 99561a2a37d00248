"""Error rates at an operating point, with intervals over people (ISO/IEC 19795-1).

The interval of an error rate comes from drawing people, not pairs, with replacement: a genuine pair
counts as often as its person was drawn, an impostor pair as often as the product for its two people
(vertex bootstrap, Snijders and Borgatti 1999). Error rates of a sample are computed from counts by
person and by pair of people, so millions of pairs are possible.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from shared.evaluation.scores import Scores
from shared.model.operating_curve import (
    FEWEST_MATCHES,
    FMRS,
    Evidence,
    OperatingCurve,
    OperatingPoint,
    Rate,
)

RoundRates = NDArray[np.float64]
"""An error rate in each round of the bootstrap, float64 (R,); NaN where there is no such pair."""

_ROUNDS: Final = 400
_ENDS: Final = (0.025, 0.975)
# The upper end of its interval over people may be at most this multiple of the rate.
_WIDEST: Final = 3.0
# Impostor pairs that are looked at for a threshold, as a multiple of those that it may accept: a
# sample of people may count each of them less.
_TOP: Final = 6


@dataclass(frozen=True)
class ScoredPeople:
    """Scored pairs of one or several sets of people.

    Attributes:
        scores: P pairs.
        people: int32 (P, 2), the person on each side.
        sets: int32 (P,), the set that both people of each pair are in. People are drawn from each
            set separately, and two sets share no person.
    """

    scores: Scores
    people: NDArray[np.int32]
    sets: NDArray[np.int32]

    @classmethod
    def of(cls, scores: Scores, people: NDArray[np.int32]) -> "ScoredPeople":
        """Return the pairs of one set."""
        return cls(scores, people, np.zeros(len(scores), np.int32))

    def rescored(self, similarity: NDArray[np.float64]) -> "ScoredPeople":
        """Return the same pairs with other similarities, float64 (P,)."""
        return ScoredPeople(Scores(similarity, self.scores.genuine), self.people, self.sets)

    @property
    def impostor_similarity(self) -> NDArray[np.float64]:
        return self.scores.similarity[~self.scores.genuine]

    @property
    def genuine_similarity(self) -> NDArray[np.float64]:
        return self.scores.similarity[self.scores.genuine]

    def impostor_evidence(self) -> Evidence:
        return _evidence(self.people[~self.scores.genuine])

    def genuine_evidence(self) -> Evidence:
        return _evidence(self.people[self.scores.genuine])


def joined(sets: Sequence[ScoredPeople]) -> ScoredPeople:
    """Join the pairs of several sets of people, who are different people in each."""
    people, numbers, first_person, first_set = [], [], 0, 0
    for each in sets:
        people.append(each.people + first_person)
        numbers.append(each.sets + first_set)
        first_person = int(people[-1].max()) + 1
        first_set = int(numbers[-1].max()) + 1
    scores = Scores(
        np.concatenate([each.scores.similarity for each in sets]),
        np.concatenate([each.scores.genuine for each in sets]),
    )
    return ScoredPeople(
        scores, np.concatenate(people).astype(np.int32), np.concatenate(numbers).astype(np.int32)
    )


class PeopleBootstrap:
    """Error rates of decisions on the same pairs, in the same samples of people.

    Figures of two versions on the same pairs can therefore be compared round by round.

    Args:
        pairs: The pairs; their similarities are not used.
        seed: Seed of the samples.
        rounds: Number of samples, R.
    """

    def __init__(self, pairs: ScoredPeople, seed: int, rounds: int = _ROUNDS) -> None:
        people, index = np.unique(pairs.people, return_inverse=True)
        sides = index.reshape(pairs.people.shape)
        genuine = pairs.scores.genuine
        self._size = len(people)
        self._genuine = sides[genuine, 0]
        self._impostor = sides[~genuine]
        self._drawn = _draw(sides, pairs.sets, self._size, seed, rounds)
        self._genuine_weight = self._by_person(np.ones(len(self._genuine), np.bool_))
        self._impostor_weight = self._by_pair(np.ones(len(self._impostor), np.bool_))

    def fnmr(self, rejected: NDArray[np.bool_]) -> RoundRates:
        """Return the share of rejected genuine pairs.

        Args:
            rejected: bool (G,), by genuine pair in their order.
        """
        return _ratio(self._by_person(rejected), self._genuine_weight)

    def fmr(self, accepted: NDArray[np.bool_]) -> RoundRates:
        """Return the share of accepted impostor pairs.

        Args:
            accepted: bool (I,), by impostor pair in their order.
        """
        return _ratio(self._by_pair(accepted), self._impostor_weight)

    def thresholds(self, similarity: NDArray[np.float64], fmr: float) -> NDArray[np.float64]:
        """Choose the threshold for a false-match rate anew in each round, float64 (R,).

        It keeps the rate on all impostor pairs together; see `threshold_for`.

        Args:
            similarity: float64 (I,), by impostor pair in their order.
            fmr: The rate, 0..1.
        """
        # Only the most similar pairs matter.
        count = len(similarity)
        most = min(count, math.ceil(_TOP * count * fmr) + _TOP)
        pairs = np.argpartition(similarity, count - most)[count - most :]
        pairs = pairs[np.argsort(-similarity[pairs])]
        allowed = self._impostor_weight * fmr * (1 + 1e-12)
        left, right = self._impostor[pairs].T
        found = np.empty(len(self._drawn))
        for number, drawn in enumerate(self._drawn):
            weight = (drawn[left] * drawn[right]).cumsum()
            refused = min(int(np.searchsorted(weight, allowed[number], "right")), most - 1)
            found[number] = similarity[pairs[refused]]
        return np.asarray(np.nextafter(found, np.inf))

    def fnmr_at(
        self,
        similarity: NDArray[np.float64],
        thresholds: NDArray[np.float64],
        of: NDArray[np.bool_] | None = None,
    ) -> RoundRates:
        """Return the share of rejected genuine pairs at another threshold in each round.

        Args:
            similarity: float64 (G,), by genuine pair in their order.
            thresholds: float64 (R,).
            of: bool (G,), the genuine pairs to count; None for all.
        """
        counted = np.arange(len(similarity)) if of is None else np.flatnonzero(of)
        order = counted[np.argsort(similarity[counted])]
        weight = self._drawn[:, self._genuine[order]].cumsum(axis=1)
        below = np.searchsorted(similarity[order], thresholds)
        before = np.column_stack([np.zeros(len(weight)), weight])
        return _ratio(before[np.arange(len(weight)), below], before[:, -1])

    def auc(self, genuine: NDArray[np.float64], impostor: NDArray[np.float64]) -> RoundRates:
        """Return the area under the ROC curve in each round.

        Args:
            genuine: float64 (G,), similarity by genuine pair in their order.
            impostor: float64 (I,), similarity by impostor pair in their order.
        """
        order = np.argsort(impostor)
        left, right = self._impostor[order].T
        # Impostor pairs of the same similarity count half.
        places = [np.searchsorted(impostor[order], genuine, side) for side in ("left", "right")]
        areas = np.empty(len(self._drawn))
        for number, drawn in enumerate(self._drawn):
            weight = np.concatenate([[0.0], (drawn[left] * drawn[right]).cumsum()])
            below = (weight[places[0]] + weight[places[1]]) / 2
            whole = weight[-1] * drawn[self._genuine].sum()
            areas[number] = drawn[self._genuine] @ below / whole if whole else np.nan
        return areas

    def _by_person(self, counted: NDArray[np.bool_]) -> NDArray[np.float64]:
        counts = np.bincount(self._genuine[counted], minlength=self._size)
        return np.asarray(self._drawn @ counts.astype(np.float64))

    def _by_pair(self, counted: NDArray[np.bool_]) -> NDArray[np.float64]:
        left, right = self._impostor[counted].T
        shape = (self._size, self._size)
        counts = csr_array((np.ones(len(left)), (left, right)), shape=shape)
        return np.asarray(((self._drawn @ counts) * self._drawn).sum(axis=1))


def threshold_for(impostor_similarity: NDArray[np.float64], fmr: float) -> float:
    """Return the lowest threshold whose false-match rate on impostor pairs is not above a limit.

    Args:
        impostor_similarity: float64 (I,).
        fmr: The limit, 0..1.
    """
    allowed = int(len(impostor_similarity) * fmr * (1 + 1e-12))
    if allowed >= len(impostor_similarity):
        return -1.0
    ranked = np.partition(impostor_similarity, len(impostor_similarity) - allowed - 1)
    highest_refused = ranked[len(impostor_similarity) - allowed - 1]
    return float(np.nextafter(highest_refused, np.inf))


def measure_curve(sets: Sequence[ScoredPeople], seed: int) -> OperatingCurve:
    """Measure the operating curve of a version on people that it was not trained on.

    See `kept_threshold` for the thresholds.

    Args:
        sets: Scored pairs of each set, for instance of reference faces and of held-out people.
        seed: Seed of the bootstrap.

    Raises:
        InvalidInput: If there is no genuine or no impostor pair.
    """
    together = joined(sets)
    together.scores.need_both_classes("an operating curve")
    bootstrap = PeopleBootstrap(together, seed)
    impostor, genuine = together.impostor_evidence(), together.genuine_evidence()

    def measure(target: float, threshold: float) -> OperatingPoint:
        accepted = together.impostor_similarity >= threshold
        rejected = together.genuine_similarity < threshold
        return OperatingPoint(
            target=target,
            threshold=threshold,
            fmr=rate_of(float(accepted.mean()), bootstrap.fmr(accepted), impostor.people),
            fnmr=rate_of(float(rejected.mean()), bootstrap.fnmr(rejected), genuine.people),
        )

    points: list[OperatingPoint] = []
    for target in FMRS:
        if not _resolves(together.scores.impostor_pairs, target):
            break
        point = measure(target, kept_threshold(sets, target))
        if point.fmr.high > _WIDEST * target:
            break
        points.append(point)
    return OperatingCurve(
        points=tuple(points) or (measure(1.0, -1.0),), impostor=impostor, genuine=genuine
    )


def kept_threshold(sets: Sequence[ScoredPeople], fmr: float) -> float:
    """Return the lowest threshold that keeps a false-match rate on the impostor pairs of some sets.

    It keeps the rate on all of them together, and on each set alone as far as that resolves it: a
    version that makes more false matches on one of them is judged by that one.
    """
    alone = [each.impostor_similarity for each in sets]
    return max(
        threshold_for(np.concatenate(alone), fmr),
        *(threshold_for(each, _alone(fmr, len(each))) for each in alone),
    )


def rate_of(value: float, rounds: RoundRates, people: int) -> Rate:
    """Return an error rate with its interval.

    Args:
        value: The rate on all pairs.
        rounds: The rate in each round of the bootstrap.
        people: Number of people behind it. A sample without errors has none in any round, so the
            upper end is then that of as many independent trials (Clopper and Pearson 1934).
    """
    known = rounds[~np.isnan(rounds)]
    low, high = np.quantile(known, _ENDS) if known.size else (0.0, 1.0)
    if value == 0:
        high = max(high, 1 - (1 - _ENDS[1]) ** (1 / max(people, 1)))
    return Rate(value=value, low=float(min(low, value)), high=float(max(high, value)))


def _resolves(impostor_pairs: int, fmr: float) -> bool:
    """Tell whether enough false matches are expected at a rate to measure it."""
    return impostor_pairs * fmr >= FEWEST_MATCHES * (1 - 1e-9)


def _alone(fmr: float, impostor_pairs: int) -> float:
    """Return the rate that a set alone must keep: the strictest one that it resolves."""
    return max(fmr, FEWEST_MATCHES / max(impostor_pairs, 1))


def _draw(
    sides: NDArray[np.intp], sets: NDArray[np.int32], size: int, seed: int, rounds: int
) -> NDArray[np.float64]:
    """Draw the people of each set with replacement; float64 (R, K), how often each was drawn."""
    generator = np.random.default_rng(seed)
    set_of = np.zeros(size, np.int32)
    set_of[sides] = sets[:, None]
    drawn = np.zeros((rounds, size))
    for number in np.unique(set_of):
        members = np.flatnonzero(set_of == number)
        share = np.full(len(members), 1 / len(members))
        drawn[:, members] = generator.multinomial(len(members), share, size=rounds)
    return drawn


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> RoundRates:
    return np.asarray(np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0))


def _evidence(people: NDArray[np.int32]) -> Evidence:
    return Evidence(pairs=len(people), people=len(np.unique(people)))
