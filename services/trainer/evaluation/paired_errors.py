"""Errors of a candidate and its parent on the same pairs, compared in the same samples of people.

At a target false-match rate both versions are compared at the threshold that keeps it. Each round
of the bootstrap chooses these thresholds anew, so their uncertainty is part of every interval.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t as student

from services.trainer.evaluation.candidate_figures import Change, FalseMatches
from shared.evaluation.operating_point import (
    PeopleBootstrap,
    RoundRates,
    ScoredPeople,
    joined,
    kept_threshold,
    rate_of,
    threshold_for,
)
from shared.model.operating_curve import Evidence

_ROUNDS: Final = 1000
_TWO_SIDED: Final = (0.025, 0.975)
# Both ends of an interval of which one end is tested, with 95 % confidence.
_ONE_SIDED: Final = (0.05, 0.95)

_Rate: TypeAlias = tuple[float, RoundRates]
"""An error rate on all pairs, and in each round."""


@dataclass(frozen=True)
class ComparedScores:
    """The pairs of one set of people, scored under two versions.

    Attributes:
        parent: Scores of the parent.
        child: Scores of the candidate.
        mixed: Similarities float64 (P,) between the candidate's embedding of one image and the
            parent's stored one of the other, both ways.
    """

    parent: ScoredPeople
    child: ScoredPeople
    mixed: tuple[NDArray[np.float64], NDArray[np.float64]]

    @property
    def genuine(self) -> NDArray[np.bool_]:
        return self.child.scores.genuine


@dataclass(frozen=True)
class ServedThresholds:
    """Thresholds at which the two versions serve."""

    parent: float
    child: float


def false_matches(pairs: ComparedScores, served: ServedThresholds, seed: int) -> FalseMatches:
    """Measure false matches of both versions at the thresholds at which they serve."""
    return _false_matches(
        pairs.child,
        [pairs.parent.impostor_similarity >= served.parent],
        [pairs.child.impostor_similarity >= served.child],
        seed,
    )


def false_non_matches(pairs: ComparedScores, served: ServedThresholds, seed: int) -> Change:
    """Measure FNMR of both versions at the thresholds at which they serve."""
    bootstrap = PeopleBootstrap(pairs.child, seed)
    old = pairs.parent.genuine_similarity < served.parent
    new = pairs.child.genuine_similarity < served.child
    rounds = bootstrap.fnmr(new) - bootstrap.fnmr(old)
    evidence = pairs.child.genuine_evidence()
    return _change(float(old.mean()), float(new.mean()), rounds, evidence)


def mixed_false_matches(pairs: ComparedScores, served: ServedThresholds, seed: int) -> FalseMatches:
    """Measure false matches between new and stored embeddings at the candidate's threshold."""
    return _false_matches(
        pairs.child,
        [pairs.parent.impostor_similarity >= served.parent],
        [similarity[~pairs.genuine] >= served.child for similarity in pairs.mixed],
        seed,
    )


def separation(pairs: ComparedScores, seed: int) -> Change:
    """Measure the area under the ROC curve, with the one-sided 95 % interval of its change.

    It depends on no threshold: a threshold that happens to be calibrated better is no gain.
    """
    bootstrap = PeopleBootstrap(pairs.child, seed)
    areas = [
        bootstrap.auc(each.genuine_similarity, each.impostor_similarity)
        for each in (pairs.parent, pairs.child)
    ]
    exact = [area_under_roc(each) for each in (pairs.parent, pairs.child)]
    return _change(exact[0], exact[1], areas[1] - areas[0], pairs.child.genuine_evidence())


def balanced_errors(pairs: ComparedScores, thresholds: ServedThresholds, seed: int) -> Change:
    """Measure the mean of FNMR and FMR of both versions, each at its own threshold."""
    return _balanced_change(pairs, thresholds, [pairs.child.scores.similarity], seed)


def mixed_balanced_errors(pairs: ComparedScores, thresholds: ServedThresholds, seed: int) -> Change:
    """Measure the same between two stored embeddings, and between a stored and a new one."""
    return _balanced_change(pairs, thresholds, pairs.mixed, seed)


def _balanced_change(
    pairs: ComparedScores,
    thresholds: ServedThresholds,
    after: Sequence[NDArray[np.float64]],
    seed: int,
) -> Change:
    """Compare balanced errors; the new version's are averaged over several similarities, (P,)."""
    bootstrap, genuine = PeopleBootstrap(pairs.child, seed), pairs.genuine

    def errors(similarity: NDArray[np.float64], threshold: float) -> _Rate:
        rejected, accepted = similarity[genuine] < threshold, similarity[~genuine] >= threshold
        rounds = (bootstrap.fnmr(rejected) + bootstrap.fmr(accepted)) / 2
        return float((rejected.mean() + accepted.mean()) / 2), rounds

    return _mean_change(
        errors(pairs.parent.scores.similarity, thresholds.parent),
        [errors(similarity, thresholds.child) for similarity in after],
        pairs.child.genuine_evidence(),
    )


class ErrorsAtTarget:
    """FNMR of both versions on held-out and reference people at a false-match rate.

    Args:
        held_out: Pairs of held-out people.
        reference: Pairs of reference people.
        fmr: The false-match rate that both versions keep.
        seed: Seed of the bootstrap.
    """

    def __init__(
        self, held_out: ComparedScores, reference: ComparedScores, fmr: float, seed: int
    ) -> None:
        self._held_out, self._reference = held_out, reference
        both = (held_out, reference)
        parent = joined([each.parent for each in both])
        child = joined([each.child for each in both])
        self._bootstrap = PeopleBootstrap(child, seed, _ROUNDS)
        self._set = child.sets[child.scores.genuine]
        self._parent = _Threshold.of([each.parent for each in both], parent, self._bootstrap, fmr)
        self._child = _Threshold.of([each.child for each in both], child, self._bootstrap, fmr)

    def held_out(self) -> Change:
        """FNMR on held-out people: parent and candidate."""
        return self._compare(0, self._held_out, [self._held_out.child.scores.similarity])

    def reference(self) -> Change:
        """FNMR on reference people: parent and candidate."""
        return self._compare(1, self._reference, [self._reference.child.scores.similarity])

    def mixed(self) -> Change:
        """FNMR on held-out people: between stored embeddings, and new and stored ones."""
        return self._compare(0, self._held_out, self._held_out.mixed)

    def _compare(
        self, number: int, pairs: ComparedScores, after: Sequence[NDArray[np.float64]]
    ) -> Change:
        before = self._fnmr(number, pairs, pairs.parent.scores.similarity, self._parent)
        others = [self._fnmr(number, pairs, similarity, self._child) for similarity in after]
        return _mean_change(before, others, pairs.child.genuine_evidence())

    def _fnmr(
        self,
        number: int,
        pairs: ComparedScores,
        similarity: NDArray[np.float64],
        threshold: "_Threshold",
    ) -> _Rate:
        own = similarity[pairs.genuine]
        placed = np.zeros(len(self._set))
        placed[self._set == number] = own
        rounds = self._bootstrap.fnmr_at(placed, threshold.rounds, self._set == number)
        return float((own < threshold.value).mean()), rounds


@dataclass(frozen=True)
class _Threshold:
    """The threshold of a version, on all people and in each round, float64 (R,).

    In the rounds it varies as the threshold does that keeps the rate on all people together. A
    small set alone, which may decide the threshold, would make it vary far more than that.
    """

    value: float
    rounds: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        sets: Sequence[ScoredPeople],
        together: ScoredPeople,
        bootstrap: PeopleBootstrap,
        fmr: float,
    ) -> "_Threshold":
        kept, impostor = kept_threshold(sets, fmr), together.impostor_similarity
        return cls(kept, bootstrap.thresholds(impostor, fmr) + kept - threshold_for(impostor, fmr))


def area_under_roc(pairs: ScoredPeople) -> float:
    """Return the area under the ROC curve on all pairs."""
    genuine, impostor = pairs.genuine_similarity, np.sort(pairs.impostor_similarity)
    sides = [np.searchsorted(impostor, genuine, side) for side in ("left", "right")]
    return float(np.mean(sides) / len(impostor))


def _false_matches(
    pairs: ScoredPeople,
    before: Sequence[NDArray[np.bool_]],
    after: Sequence[NDArray[np.bool_]],
    seed: int,
) -> FalseMatches:
    """Compare decisions on the impostor pairs; each is bool (I,), and several are averaged."""
    bootstrap = PeopleBootstrap(pairs, seed)
    old, new = (np.mean([bootstrap.fmr(each) for each in some], axis=0) for some in (before, after))
    parent, child = (float(np.mean([each.mean() for each in some])) for some in (before, after))
    evidence = pairs.impostor_evidence()
    low, high = _ends(new - old, child - parent, _TWO_SIDED)
    return FalseMatches(
        parent=parent,
        child=rate_of(child, new, evidence.people),
        rise_low=low,
        rise_high=high,
        people=evidence.people,
        pairs=evidence.pairs,
    )


def _mean_change(before: _Rate, after: Sequence[_Rate], evidence: Evidence) -> Change:
    """Compare a rate with the mean of several of the new version."""
    value = float(np.mean([one for one, _ in after]))
    rounds = np.mean([rounds for _, rounds in after], axis=0)
    return _change(before[0], value, rounds - before[1], evidence)


def _change(before: float, after: float, rounds: RoundRates, evidence: Evidence) -> Change:
    value, people = after - before, evidence.people
    low, high = _ends(rounds, value, _ONE_SIDED)
    if people > 1 and not np.isnan(rounds).any():
        # On few people percentiles alone are too narrow: Student's interval is as well to hold.
        error = np.std(rounds) * np.sqrt(people / (people - 1))
        width = float(student.ppf(_ONE_SIDED[1], people - 1) * error)
        low, high = min(low, value - width), max(high, value + width)
    return Change(before, after, low, high, evidence.people, evidence.pairs)


def _ends(rounds: RoundRates, value: float, ends: tuple[float, float]) -> tuple[float, float]:
    """Return the ends of an interval, which holds the value on all pairs."""
    known = rounds[~np.isnan(rounds)]
    if not known.size:
        return -1.0, 1.0
    low, high = np.quantile(known, ends)
    return float(min(low, value)), float(max(high, value))
