"""All figures of one model on one set of pairs."""

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from shared.datasets.pairs import PairSet
from shared.evaluation.embed_set import EmbeddedSet
from shared.evaluation.metrics import (
    confusion,
    error_versus_reject,
    folded_accuracy,
    identity_bootstrap,
    roc,
    supports_far,
    tar_at_far,
)
from shared.evaluation.scores import Scores, pair_similarity

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
REJECT_FMR = 1e-3


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Interval(_Frozen):
    """95 % bootstrap interval."""

    low: float
    high: float


class Folded(_Frozen):
    """Accuracy over folds, each at the threshold that is best on the others."""

    folds: int
    mean: float
    std: float


class RejectCurve(_Frozen):
    """FNMR at a fixed FMR against the share of genuine pairs rejected by magnitude."""

    fmr: float
    rejected: tuple[float, ...]
    fnmr: tuple[float, ...]


class Mirrored(_Frozen):
    """Figures when the features of the mirror image are added before normalising."""

    best_accuracy: float
    best_threshold: float
    auc: float
    eer: float


class Evaluation(_Frozen):
    """Figures of one model on one set.

    Attributes:
        threshold: The one that accuracy, precision, recall and the counts are at.
        tar_at_far: TAR by FAR; None where the impostor pairs are too few to measure it.
        intervals: 95 % bootstrap intervals over identities (over images, where the set
            does not say who is on them) of accuracy, auc, eer, best_accuracy, and TAR as
            ``tar_at_far.0.01``.
        folded: None unless the set has folds.
        error_versus_reject: None where the impostor pairs cannot support its FMR.
        images_per_second: Of embedding, decoding included.
    """

    images: int
    pairs: int
    genuine_pairs: int
    impostor_pairs: int
    threshold: float
    accuracy: float
    precision: float
    recall: float
    tp: int
    tn: int
    fp: int
    fn: int
    best_accuracy: float
    best_threshold: float
    auc: float
    eer: float
    tar_at_far: dict[str, float | None]
    intervals: dict[str, Interval]
    folded: Folded | None
    mirrored: Mirrored | None
    error_versus_reject: RejectCurve | None
    mean_magnitude: float
    images_per_second: float


def score(embedded: EmbeddedSet, pair_set: PairSet) -> Scores:
    """Similarity of each pair of a set."""
    return Scores(pair_similarity(embedded.embeddings, pair_set.pairs), pair_set.labels)


def evaluate(
    embedded: EmbeddedSet,
    pair_set: PairSet,
    threshold: float,
    *,
    bootstrap_rounds: int = 200,
    seed: int = 0,
) -> Evaluation:
    """Measure a model on a set of pairs.

    Args:
        embedded: The set's images under the model.
        pair_set: Who is the same person as whom.
        threshold: The model version's.
        bootstrap_rounds: Samples behind each interval; 0 leaves the intervals out.
        seed: Of the bootstrap.

    Raises:
        InvalidInput: If there are no genuine or no impostor pairs.
    """
    scores = score(embedded, pair_set)
    counted = confusion(scores, threshold)
    curve = roc(scores)
    best_threshold, best_accuracy = curve.best()
    return Evaluation(
        images=len(pair_set.images),
        pairs=len(pair_set),
        genuine_pairs=scores.genuine_pairs,
        impostor_pairs=scores.impostor_pairs,
        threshold=threshold,
        accuracy=counted.accuracy,
        precision=counted.precision,
        recall=counted.recall,
        tp=counted.tp,
        tn=counted.tn,
        fp=counted.fp,
        fn=counted.fn,
        best_accuracy=best_accuracy,
        best_threshold=best_threshold,
        auc=curve.auc,
        eer=curve.eer,
        tar_at_far={
            f"{far:g}": tar_at_far(scores, far).tar if supports_far(scores, far) else None
            for far in FARS
        },
        intervals=_intervals(scores, pair_set, threshold, bootstrap_rounds, seed),
        folded=_folded(scores, pair_set.folds),
        mirrored=_mirrored(embedded, pair_set),
        error_versus_reject=_reject(scores, pair_quality(embedded, pair_set)),
        mean_magnitude=float(embedded.magnitudes.mean()),
        images_per_second=embedded.images_per_second,
    )


def pair_quality(embedded: EmbeddedSet, pair_set: PairSet) -> NDArray[np.float64]:
    """The smaller magnitude of each pair's two faces, float64 [P]."""
    return np.asarray(embedded.magnitudes[pair_set.pairs].min(axis=1), dtype=np.float64)


def _folded(scores: Scores, folds: NDArray[np.int32] | None) -> Folded | None:
    if folds is None:
        return None
    accuracy = folded_accuracy(scores, folds)
    return Folded(folds=len(accuracy.accuracies), mean=accuracy.mean, std=accuracy.std)


def _mirrored(embedded: EmbeddedSet, pair_set: PairSet) -> Mirrored | None:
    if embedded.mirrored is None:
        return None
    curve = roc(Scores(pair_similarity(embedded.mirrored, pair_set.pairs), pair_set.labels))
    threshold, accuracy = curve.best()
    return Mirrored(best_accuracy=accuracy, best_threshold=threshold, auc=curve.auc, eer=curve.eer)


def _reject(scores: Scores, quality: NDArray[np.float64]) -> RejectCurve | None:
    if not supports_far(scores, REJECT_FMR):
        return None
    curve = error_versus_reject(scores, quality, REJECT_FMR)
    return RejectCurve(fmr=REJECT_FMR, rejected=tuple(curve.rejected), fnmr=tuple(curve.fnmr))


def _intervals(
    scores: Scores, pair_set: PairSet, threshold: float, rounds: int, seed: int
) -> dict[str, Interval]:
    if not rounds:
        return {}
    right = scores.decisions(threshold) == scores.genuine
    samples: dict[str, list[float]] = {}
    for weights in identity_bootstrap(_people(pair_set), scores.genuine, rounds, seed):
        curve = roc(scores, weights)
        sample = {
            "accuracy": float(np.average(right, weights=weights)),
            "auc": curve.auc,
            "eer": curve.eer,
            "best_accuracy": curve.best()[1],
        }
        for far in FARS:
            if supports_far(scores, far):
                sample[f"tar_at_far.{far:g}"] = curve.at_far(far)[1]
        for name, value in sample.items():
            samples.setdefault(name, []).append(value)
    return {
        name: Interval(low=float(low), high=float(high))
        for name, values in samples.items()
        for low, high in [np.quantile(values, [0.025, 0.975])]
    }


def _people(pair_set: PairSet) -> NDArray[np.int32]:
    if pair_set.identities is None:
        return pair_set.pairs
    _, person = np.unique(np.array(pair_set.identities), return_inverse=True)
    return person.astype(np.int32)[pair_set.pairs]
