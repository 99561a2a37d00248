"""Verification metrics, defined as by LFW, InsightFace and ISO/IEC 19795.

A pair is accepted when its similarity is at or above the threshold. FAR (also FMR) is the share of
impostor pairs that are accepted, TAR the share of genuine pairs that are accepted, and
FNMR = 1 - TAR. ROC and AUC are computed by scikit-learn.

Weights say how often each pair counts; the bootstrap uses them.
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
    """Counts of decisions at one threshold. A rate whose denominator is 0 is 0."""

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
    """Count correct and wrong decisions at a threshold."""
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
    """ROC over every distinct similarity; at the first threshold no pair is accepted.

    Attributes:
        far: float64, (T,), ascending 0..1.
        tar: float64, (T,), ascending 0..1.
        threshold: float64, (T,), descending; the first is infinite.
        genuine_share: Share of the genuine pairs in the total weight.
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
        """Equal error rate, where FAR = FNMR, interpolated linearly between points of the ROC."""
        gap = self.far - (1 - self.tar)
        after = int(np.argmax(gap >= 0))
        before = after - 1
        part = -gap[before] / (gap[after] - gap[before])
        return float(self.far[before] + part * (self.far[after] - self.far[before]))

    def best(self) -> tuple[float, float]:
        """Return the threshold with the best accuracy, and that accuracy.

        The threshold is the middle between two neighbouring similarities, where unseen pairs are
        least likely to be decided wrongly. Of several best thresholds the one in the widest gap
        is taken.
        """
        accuracy = self.genuine_share * self.tar + (1 - self.genuine_share) * (1 - self.far)
        best = np.flatnonzero(accuracy >= accuracy.max() - 1e-12)
        upper = np.minimum(self.threshold[best], self.threshold[1] + 2e-6)
        lower = np.append(self.threshold, self.threshold[-1] - 2e-6)[best + 1]
        widest = int(np.argmax(upper - lower))
        middle = max((upper[widest] + lower[widest]) / 2, np.nextafter(lower[widest], np.inf))
        return float(middle), float(accuracy[best[widest]])

    def at_far(self, far: float) -> tuple[float, float]:
        """Return the lowest threshold whose FAR does not exceed `far`, and the TAR at it."""
        allowed = int(np.flatnonzero(self.far <= far + 1e-12)[-1])
        threshold = self.threshold[allowed]
        if np.isinf(threshold):
            threshold = np.nextafter(self.threshold[1], np.inf)
        return float(threshold), float(self.tar[allowed])


def roc(scores: Scores, weights: Weights | None = None) -> Roc:
    """Compute the ROC of scored pairs.

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
    """Compute the TAR at the lowest threshold whose FAR does not exceed `far`.

    Raises:
        InvalidInput: If there are fewer than 1/far impostor pairs. Then a single false accept
            exceeds `far`, so the figure would be an extrapolation.
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
    """Say whether there are enough impostor pairs to measure a FAR this low."""
    return scores.impostor_pairs * far >= 1 - 1e-9


@dataclass(frozen=True)
class FoldedAccuracy:
    """Accuracy at cross-validated thresholds.

    Attributes:
        accuracies: float64, (K,), one for each fold.
        thresholds: float64, (K,), each chosen on the other folds.
    """

    accuracies: NDArray[np.float64]
    thresholds: NDArray[np.float64]

    @property
    def mean(self) -> float:
        return float(self.accuracies.mean())

    @property
    def std(self) -> float:
        """Population standard deviation over the folds, as in LFW's scripts."""
        return float(self.accuracies.std())


def folded_accuracy(scores: Scores, folds: NDArray[np.int32]) -> FoldedAccuracy:
    """Compute the accuracy on each fold at the best threshold of the other folds (LFW protocol).

    Args:
        scores: P pairs.
        folds: (P,), fold of each pair.
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
    """Error-versus-reject curve: FNMR of the rest when the pairs of lowest quality are rejected.

    Attributes:
        rejected: float64, (S,), share of the pairs that are rejected, 0..1.
        fnmr: float64, (S,).
        fmr: FMR that fixes the threshold, on all impostor pairs.
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
    """Compute the FNMR at a fixed threshold by share of rejected pairs (MagFace, section 4.3).

    Args:
        scores: P pairs.
        pair_quality: (P,), the smaller magnitude of the two faces of each pair.
        fmr: FMR that fixes the threshold.
        shares: Shares of the genuine pairs to reject, each below 1.
    """
    threshold = tar_at_far(scores, fmr).threshold
    quality = pair_quality[scores.genuine]
    wrong = (~scores.decisions(threshold))[scores.genuine]
    wrong = wrong[np.argsort(quality, kind="stable")]
    fnmr = [wrong[int(share * len(wrong)) :].mean() for share in shares]
    return ErrorVersusReject(np.array(shares), np.array(fnmr), fmr)


def identity_bootstrap(
    identities: NDArray[np.int32], genuine: NDArray[np.bool_], rounds: int, seed: int
) -> Iterator[Weights]:
    """Yield the weights of the pairs in each bootstrap sample of identities.

    People are drawn with replacement instead of pairs, because pairs of one person are not
    independent. The weight of a genuine pair is how often its person was drawn, that of an
    impostor pair the product for its two people (vertex bootstrap, Snijders and Borgatti 1999).
    Samples without genuine or without impostor pairs are drawn again.

    Args:
        identities: (P, 2) number of the person on each side.
        genuine: (P,).
        rounds: Number of samples.
        seed: Seed of the random generator.
    """
    generator = np.random.default_rng(seed)
    people, index = np.unique(identities, return_inverse=True)
    sides = index.reshape(identities.shape)
    yielded = 0
    for _ in range(20 * rounds):
        drawn = np.bincount(
            generator.integers(len(people), size=len(people)), minlength=len(people)
        )
        left, right = drawn[sides].T
        weights = np.where(genuine, left, left * right).astype(np.float64)
        if weights[genuine].any() and weights[~genuine].any():
            yield weights
            yielded += 1
        if yielded == rounds:
            return
    raise InvalidInput("identities", "too few people for a bootstrap over identities")
