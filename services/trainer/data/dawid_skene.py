"""How far each label and each annotator can be trusted.

The estimate of Dawid and Skene 1979 (Applied Statistics 28, "Maximum likelihood estimation of
observer error-rates using the EM algorithm"), in which the similarity of a pair's embeddings
speaks as one more observer, with a normal distribution for each class. Without it, nobody
contradicts an annotator who alone labelled a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.label_report import Reliability
from services.trainer.data.labels import LabelledPair, Vote

Values = NDArray[np.float64]

_ROUNDS, _SETTLED = 300, 1e-6
# How sure the estimate is of a label before it has looked at anything.
_AT_FIRST = 0.8
_SMALLEST_SPREAD = 0.02
_LOWEST_RATE, _HIGHEST_RATE = 0.02, 0.999
# An annotator of few votes is taken to be as good as all are together.
_VOTES_OF_THE_OTHERS = 10.0
# Stands for whoever gave a label that comes without votes.
_SOMEBODY = ""


@dataclass(frozen=True)
class Trust:
    """What to think of P labels.

    Attributes:
        right: float64 [P], probability that each label is right.
        annotators: Who gave them, the least reliable first.
    """

    right: Values
    annotators: tuple[Reliability, ...]

    @property
    def wrong_share(self) -> float:
        """Share of the labels that is expected to be wrong, 0..1."""
        return float(1 - self.right.mean())


def estimate_trust(pairs: Sequence[LabelledPair], similarity: Values) -> Trust:
    """Estimate how far labels and annotators can be trusted.

    Args:
        pairs: P labelled pairs, one at least.
        similarity: [P], cosines of their embeddings; of a network that has not been trained
            on these very labels.
    """
    same = np.array([pair.same for pair in pairs])
    votes = _Votes.of(pairs)
    genuine = np.where(same, _AT_FIRST, 1 - _AT_FIRST)
    if same.all() or not same.any():
        # One class says nothing of how the other would look.
        return Trust(np.ones(len(pairs)), votes.reliability(same.astype(np.float64)))
    for _ in range(_ROUNDS):
        before = genuine
        odds = _prior(genuine) + _evidence(similarity, genuine) + votes.evidence(genuine)
        genuine = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        if np.abs(genuine - before).max() < _SETTLED:
            break
    return Trust(np.where(same, genuine, 1 - genuine), votes.reliability(genuine))


def _prior(genuine: Values) -> float:
    share = np.clip(genuine.mean(), 1e-3, 1 - 1e-3)
    return float(np.log(share / (1 - share)))


def _evidence(similarity: Values, genuine: Values) -> Values:
    """Log odds of each pair to be genuine, by its similarity alone."""
    (mean_g, spread_g), (mean_i, spread_i) = (
        _normal(similarity, weight) for weight in (genuine, 1 - genuine)
    )
    if mean_g <= mean_i:  # the network tells nothing apart
        return np.zeros(len(similarity))
    bend = 1 / spread_g**2 - 1 / spread_i**2
    if bend:
        # Of two unequal normals the wider wins again far out: more similar may not mean less.
        turn = (mean_g / spread_g**2 - mean_i / spread_i**2) / bend
        similarity = np.minimum(similarity, turn) if bend > 0 else np.maximum(similarity, turn)
    far_g, far_i = (similarity - mean_g) / spread_g, (similarity - mean_i) / spread_i
    return np.asarray((far_i**2 - far_g**2) / 2 + np.log(spread_i / spread_g))


def _normal(values: Values, weight: Values) -> tuple[float, float]:
    mean = float(np.average(values, weights=weight))
    variance = float(np.average((values - mean) ** 2, weights=weight))
    return mean, max(variance**0.5, _SMALLEST_SPREAD)


@dataclass(frozen=True)
class _Votes:
    """Votes in columns: who said of which pair that it is the same person, or is not."""

    names: tuple[str, ...]
    pair: NDArray[np.int64]
    annotator: NDArray[np.int64]
    same: NDArray[np.bool_]
    pairs: int

    @classmethod
    def of(cls, pairs: Sequence[LabelledPair]) -> "_Votes":
        rows = [
            (index, vote.annotator, vote.same)
            for index, pair in enumerate(pairs)
            for vote in pair.votes or (Vote(_SOMEBODY, pair.same),)
            if vote.same is not None
        ]
        names = tuple(sorted({name for _, name, _ in rows}))
        number = {name: index for index, name in enumerate(names)}
        return cls(
            names,
            np.array([index for index, _, _ in rows], np.int64),
            np.array([number[name] for _, name, _ in rows], np.int64),
            np.array([said for _, _, said in rows], np.bool_),
            len(pairs),
        )

    def rates(self, genuine: Values) -> tuple[Values, Values]:
        """How often each annotator is right about genuine and about impostor pairs."""
        right_g, right_i = (
            self._rate(weight[self.pair], agrees)
            for weight, agrees in ((genuine, self.same), (1 - genuine, ~self.same))
        )
        return right_g, right_i

    def _rate(self, weight: Values, agrees: NDArray[np.bool_]) -> Values:
        of_all = np.clip((weight * agrees).sum() / max(weight.sum(), 1e-9), 0.5, _HIGHEST_RATE)
        agreed = np.bincount(self.annotator, weight * agrees, len(self.names))
        asked = np.bincount(self.annotator, weight, len(self.names))
        rate = (agreed + _VOTES_OF_THE_OTHERS * of_all) / (asked + _VOTES_OF_THE_OTHERS)
        return np.asarray(np.clip(rate, _LOWEST_RATE, _HIGHEST_RATE))

    def evidence(self, genuine: Values) -> Values:
        """Log odds of each pair to be genuine, by its votes alone."""
        right_g, right_i = (rate[self.annotator] for rate in self.rates(genuine))
        said_same = np.log(right_g / (1 - right_i))
        said_different = np.log((1 - right_g) / right_i)
        odds = np.where(self.same, said_same, said_different)
        return np.bincount(self.pair, odds, self.pairs).astype(np.float64)

    def reliability(self, genuine: Values) -> tuple[Reliability, ...]:
        rates = zip(*self.rates(genuine), strict=True)
        counts = np.bincount(self.annotator, minlength=len(self.names))
        found = [
            Reliability(name, int(count), float(right_g), float(right_i))
            for name, count, (right_g, right_i) in zip(self.names, counts, rates, strict=True)
        ]
        return tuple(
            sorted(
                (one for one in found if one.annotator != _SOMEBODY),
                key=lambda one: (one.genuine_right + one.impostor_right, one.annotator),
            )
        )
