"""Figures of face verification, as LFW, InsightFace and the ISO 19795 vocabulary have them.

A pair is called genuine when its similarity is at or above the threshold. FAR (also FMR)
is the share of impostor pairs called genuine, TAR the share of genuine pairs called
genuine, FNMR = 1 - TAR. ROC, AUC and the rest come from scikit-learn.

Weights, where a function takes them, count a pair more than once; the bootstrap uses them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import auc, roc_curve

from shared.errors import InvalidInput
from shared.evaluation.scores import Scores

Weights = NDArray[np.float64]


@dataclass(frozen=True)
class Confusion:
    """Decisions at one threshold, counted. A figure without a denominator is 0."""

    threshold: float
    tp: int
    tn: int
    fp: int
    fn: int

    @property
    def accuracy(self) -> float:
        return (self.tp + self.tn) / (self.tp + self.tn + self.fp + self.fn)

    @property
    def precision(self) -> float:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else 0.0


def confusion(scores: Scores, threshold: float) -> Confusion:
    """Count right and wrong decisions at a threshold."""
    same = scores.decisions(threshold)
    return Confusion(
        threshold=threshold,
        tp=int((same & scores.genuine).sum()),
        tn=int((~same & ~scores.genuine).sum()),
        fp=int((same & ~scores.genuine).sum()),
        fn=int((~same & scores.genuine).sum()),
    )


@dataclass(frozen=True)
class Roc:
    """ROC over every distinct similarity, thresholds falling; the first accepts nothing.

    Attributes:
        far: float64, (T,), rising 0..1.
        tar: float64, (T,), rising 0..1.
        threshold: float64, (T,), falling; the first is infinite.
        genuine_share: Weight of genuine pairs among all.
    """

    far: NDArray[np.float64]
    tar: NDArray[np.float64]
    threshold: NDArray[np.float64]
    genuine_share: float

    @property
    def auc(self) -> float:
        return float(auc(self.far, self.tar))

    @property
    def eer(self) -> float:
        """Error rate where FAR and FNMR meet, between two steps of the ROC by a straight line."""
        gap = self.far - (1 - self.tar)
        after = int(np.argmax(gap >= 0))
        before = after - 1
        part = -gap[before] / (gap[after] - gap[before])
        return float(self.far[before] + part * (self.far[after] - self.far[before]))

    def best(self) -> tuple[float, float]:
        """Threshold of the best accuracy, and that accuracy.

        The threshold is put half-way to the next lower similarity, where unseen pairs are
        least likely to fall on the wrong side; among equals the widest gap wins.
        """
        accuracy = self.genuine_share * self.tar + (1 - self.genuine_share) * (1 - self.far)
        best = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
        upper = np.minimum(self.threshold[best], self.threshold[1] + 2e-6)
        lower = np.append(self.threshold, self.threshold[-1] - 2e-6)[best + 1]
        widest = int(np.argmax(upper - lower))
        middle = max((upper[widest] + lower[widest]) / 2, np.nextafter(lower[widest], np.inf))
        return float(middle), float(accuracy[best[widest]])

    def at_far(self, far: float) -> tuple[float, float]:
        """Lowest threshold whose FAR does not exceed `far`, and the TAR there."""
        allowed = int(np.flatnonzero(self.far <= far + 1e-12)[-1])
        threshold = self.threshold[allowed]
        if np.isinf(threshold):
            threshold = np.nextafter(self.threshold[1], np.inf)
        return float(threshold), float(self.tar[allowed])


def roc(scores: Scores, weights: Weights | None = None) -> Roc:
    """ROC of scored pairs.

    Raises:
        InvalidInput: If there are no genuine or no impostor pairs.
    """
    scores.need_both_classes("the ROC")
    far, tar, threshold = roc_curve(
        scores.genuine, scores.similarity, sample_weight=weights, drop_intermediate=False
    )
    share = np.average(scores.genuine, weights=weights)
    return Roc(far, tar, threshold, float(share))


@dataclass(frozen=True)
class TarAtFar:
    far: float
    tar: float
    threshold: float


def tar_at_far(scores: Scores, far: float, weights: Weights | None = None) -> TarAtFar:
    """TAR at the lowest threshold whose FAR does not exceed `far`.

    Raises:
        InvalidInput: If fewer than 1/far impostor pairs are there: then no number of
            false accepts but none lies within `far`, and the figure would be made up.
    """
    if not supports_far(scores, far):
        raise InvalidInput(
            "far",
            f"FAR {far:g} needs at least {int(np.ceil(1 / far))} impostor pairs; "
            f"there are {scores.impostor_pairs}",
        )
    threshold, tar = roc(scores, weights).at_far(far)
    return TarAtFar(far, tar, threshold)


def supports_far(scores: Scores, far: float) -> bool:
    """Whether there are impostor pairs enough to measure a FAR this low."""
    return scores.impostor_pairs * far >= 1 - 1e-9


@dataclass(frozen=True)
class FoldedAccuracy:
    """Accuracy by cross-validated threshold.

    Attributes:
        accuracies: float64, (K,), one a fold.
        thresholds: float64, (K,), each chosen on the other folds.
    """

    accuracies: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.accuracies.mean())

    @property
    def std(self) -> float:
        """Population standard deviation over the folds, as LFW's scripts give it."""
        return float(self.accuracies.std())


def folded_accuracy(scores: Scores, folds: NDArray[np.int32]) -> FoldedAccuracy:
    """Accuracy on each fold at the threshold that is best on the others (LFW's protocol).

    Args:
        scores: P pairs.
        folds: (P,), the fold each pair is in.
    """
    accuracies, thresholds = [], []
    for fold in np.unique(folds):
        inside = folds == fold
        if inside.all():
            raise InvalidInput("folds", "at least two folds are needed to choose a threshold")
        rest = Scores(scores.similarity[~inside], scores.genuine[~inside])
        threshold, _ = roc(rest).best()
        held_out = Scores(scores.similarity[inside], scores.genuine[inside])
        thresholds.append(threshold)
        accuracies.append(confusion(held_out, threshold).accuracy)
    return FoldedAccuracy(np.array(accuracies), np.array(thresholds))


@dataclass(frozen=True)
class ErrorVersusReject:
    """FNMR of what is left when the pairs of lowest quality are rejected.

    Attributes:
        rejected: float64, (S,), share of the pairs rejected, 0..1.
        fnmr: float64, (S,).
        fmr: FMR at which the threshold was fixed, on all impostor pairs.
    """

    rejected: NDArray[np.float64]
    fnmr: NDArray[np.float64]
    fmr: float


def error_versus_reject(
    scores: Scores,
    pair_quality: NDArray[np.float64],
    fmr: float,
    shares: Sequence[float] = tuple(np.linspace(0, 0.5, 21)),
) -> ErrorVersusReject:
    """FNMR at a fixed threshold against the share of pairs rejected (MagFace, section 4.3).

    Args:
        scores: P pairs.
        pair_quality: (P,), the smaller magnitude of the two faces.
        fmr: FMR that fixes the threshold.
        shares: Shares of the genuine pairs to reject, each below 1.
    """
    threshold = tar_at_far(scores, fmr).threshold
    quality = pair_quality[scores.genuine]
    wrong = (~scores.decisions(threshold))[scores.genuine]
    wrong = wrong[np.argsort(quality, kind="stable")]
    kept = [wrong[int(share * len(wrong)) :].mean() for share in shares]
    return ErrorVersusReject(np.array(shares), np.array(kept), fmr)


def identity_bootstrap(
    identities: NDArray[np.int32], genuine: NDArray[np.bool_], rounds: int, seed: int
) -> Iterator[Weights]:
    """Weights of the pairs in each bootstrap sample of identities.

    People are drawn with replacement, not pairs: pairs of one person are not independent.
    A genuine pair counts as often as its person was drawn, an impostor pair as often as
    both were together (vertex bootstrap, Snijders and Borgatti 1999). Samples without
    genuine or without impostor pairs are drawn again.

    Args:
        identities: (P, 2) number of the person on each side.
        genuine: (P,).
        rounds: Samples to give.
        seed: Of the generator.
    """
    generator = np.random.default_rng(seed)
    people, index = np.unique(identities, return_inverse=True)
    sides = index.reshape(identities.shape)
    given = 0
    for _ in range(20 * rounds):
        drawn = np.bincount(
            generator.integers(len(people), size=len(people)), minlength=len(people)
        )
        left, right = drawn[sides].T
        weights = np.where(genuine, left, left * right).astype(np.float64)
        if weights[genuine].any() and weights[~genuine].any():
            yield weights
            given += 1
        if given == rounds:
            return
    raise InvalidInput("identities", "too few people for a bootstrap over identities")
