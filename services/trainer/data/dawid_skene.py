"""Label correctness and annotator reliability by the method of Dawid and Skene.

Dawid and Skene 1979, "Maximum likelihood estimation of observer error-rates using the EM
algorithm" (Applied Statistics 28). The similarity of a pair's embeddings takes part as one more
observer, with a normal distribution for each class. Without it, nothing contradicts an annotator
who alone labelled a pair.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.label_report import AnnotatorReliability
from services.trainer.data.labels import LabelledPair, Vote

ScoreArray = NDArray[np.float64]

_MAX_ITERATIONS, _TOLERANCE = 300, 1e-6
# Probability that a label is correct, at the first iteration.
_INITIAL_CORRECT = 0.8
_MIN_STD = 0.02
_MIN_RATE, _MAX_RATE = 0.02, 0.999
# An annotator's rates are shrunk towards those of all annotators, as by this many more votes.
_PRIOR_VOTES = 10.0
# Annotator of labels that come without votes.
_UNKNOWN = ""


@dataclass(frozen=True)
class LabelCorrectness:
    """The estimate for P labels.

    Attributes:
        probability: float64 [P], probability that each label is correct.
        annotators: Reliability of the annotators, the least reliable first.
        weight: float64 [P], how much each label counts in the estimate.
    """

    probability: ScoreArray
    annotators: tuple[AnnotatorReliability, ...]
    weight: ScoreArray

    @property
    def wrong_share(self) -> float:
        """Expected share of wrong labels, 0..1."""
        return float(1 - np.average(self.probability, weights=self.weight))


def estimate_correctness(
    pairs: Sequence[LabelledPair], similarity: ScoreArray, weight: ScoreArray
) -> LabelCorrectness:
    """Estimate which labels are correct, and how reliable each annotator is.

    Args:
        pairs: P labelled pairs, at least one.
        similarity: [P], cosine similarity of their embeddings, under a network that was not
            trained on these labels.
        weight: [P], how much each pair counts in the estimate, above 0 and at most 1.
    """
    same = np.array([pair.same for pair in pairs])
    votes = _Votes.of(pairs, weight)
    genuine = np.where(same, _INITIAL_CORRECT, 1 - _INITIAL_CORRECT)
    if same.all() or not same.any():
        # With one class only there is no distribution of the other to compare with.
        reliability = votes.reliability(same.astype(np.float64))
        return LabelCorrectness(np.ones(len(pairs)), reliability, weight)
    for _ in range(_MAX_ITERATIONS):
        before = genuine
        log_odds = (
            _prior_log_odds(genuine, weight)
            + _similarity_log_odds(similarity, genuine, weight)
            + votes.log_odds(genuine)
        )
        genuine = 1 / (1 + np.exp(-np.clip(log_odds, -50, 50)))
        if np.abs(genuine - before).max() < _TOLERANCE:
            break
    probability = np.where(same, genuine, 1 - genuine)
    return LabelCorrectness(probability, votes.reliability(genuine), weight)


def _prior_log_odds(genuine: ScoreArray, weight: ScoreArray) -> float:
    share = np.clip(np.average(genuine, weights=weight), 1e-3, 1 - 1e-3)
    return float(np.log(share / (1 - share)))


def _similarity_log_odds(
    similarity: ScoreArray, genuine: ScoreArray, weight: ScoreArray
) -> ScoreArray:
    """Log odds [P] that each pair is genuine, by its similarity alone."""
    (mean_g, std_g), (mean_i, std_i) = (
        _fit_normal(similarity, weight * share) for share in (genuine, 1 - genuine)
    )
    if mean_g <= mean_i:  # the similarity does not separate the classes
        return np.zeros(len(similarity))
    curvature = 1 / std_g**2 - 1 / std_i**2
    if curvature:
        # The odds of two normals of unequal width turn at one point. Beyond it a higher
        # similarity would mean lower odds, so the similarity is clipped there.
        turn = (mean_g / std_g**2 - mean_i / std_i**2) / curvature
        similarity = np.minimum(similarity, turn) if curvature > 0 else np.maximum(similarity, turn)
    z_g, z_i = (similarity - mean_g) / std_g, (similarity - mean_i) / std_i
    return np.asarray((z_i**2 - z_g**2) / 2 + np.log(std_i / std_g))


def _fit_normal(values: ScoreArray, weight: ScoreArray) -> tuple[float, float]:
    """Return the weighted mean and standard deviation."""
    mean = float(np.average(values, weights=weight))
    variance = float(np.average((values - mean) ** 2, weights=weight))
    return mean, max(variance**0.5, _MIN_STD)


@dataclass(frozen=True)
class _Votes:
    """V votes in columns.

    Attributes:
        names: The annotators.
        pair: int64 [V], position of the pair.
        annotator: int64 [V], position in `names`.
        same: bool [V], the vote.
        weight: float64 [P], how much the votes on each pair count.
    """

    names: tuple[str, ...]
    pair: NDArray[np.int64]
    annotator: NDArray[np.int64]
    same: NDArray[np.bool_]
    weight: ScoreArray

    @classmethod
    def of(cls, pairs: Sequence[LabelledPair], weight: ScoreArray) -> "_Votes":
        rows = [
            (index, vote.annotator, vote.same)
            for index, pair in enumerate(pairs)
            for vote in pair.votes or (Vote(_UNKNOWN, pair.same),)
            if vote.same is not None
        ]
        names = tuple(sorted({name for _, name, _ in rows}))
        position = {name: index for index, name in enumerate(names)}
        return cls(
            names,
            np.array([index for index, _, _ in rows], np.int64),
            np.array([position[name] for _, name, _ in rows], np.int64),
            np.array([same for _, _, same in rows], np.bool_),
            weight,
        )

    def rates(self, genuine: ScoreArray) -> tuple[ScoreArray, ScoreArray]:
        """Return each annotator's sensitivity and specificity.

        Args:
            genuine: float64 [P], probability that each pair is genuine.
        """
        sensitivity, specificity = (
            self._rate((self.weight * share)[self.pair], correct)
            for share, correct in ((genuine, self.same), (1 - genuine, ~self.same))
        )
        return sensitivity, specificity

    def _rate(self, weight: ScoreArray, correct: NDArray[np.bool_]) -> ScoreArray:
        overall = np.clip((weight * correct).sum() / max(weight.sum(), 1e-9), 0.5, _MAX_RATE)
        right = np.bincount(self.annotator, weight * correct, len(self.names))
        asked = np.bincount(self.annotator, weight, len(self.names))
        rate = (right + _PRIOR_VOTES * overall) / (asked + _PRIOR_VOTES)
        return np.asarray(np.clip(rate, _MIN_RATE, _MAX_RATE))

    def log_odds(self, genuine: ScoreArray) -> ScoreArray:
        """Log odds [P] that each pair is genuine, by its votes alone."""
        sensitivity, specificity = (rate[self.annotator] for rate in self.rates(genuine))
        if_same = np.log(sensitivity / (1 - specificity))
        if_different = np.log((1 - sensitivity) / specificity)
        odds = np.where(self.same, if_same, if_different)
        return np.bincount(self.pair, odds, len(self.weight)).astype(np.float64)

    def reliability(self, genuine: ScoreArray) -> tuple[AnnotatorReliability, ...]:
        """Return the reliability of the named annotators, the least reliable first."""
        rates = zip(*self.rates(genuine), strict=True)
        counts = np.bincount(self.annotator, minlength=len(self.names))
        found = [
            AnnotatorReliability(name, int(count), float(sensitivity), float(specificity))
            for name, count, (sensitivity, specificity) in zip(
                self.names, counts, rates, strict=True
            )
        ]
        return tuple(
            sorted(
                (one for one in found if one.annotator != _UNKNOWN),
                key=lambda one: (one.sensitivity + one.specificity, one.annotator),
            )
        )
