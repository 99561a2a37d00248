"""Measurement of one model on one pair set."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.datasets.pairs import PairSet
from shared.evaluation.bootstrap import FARS, Samples, bootstrap, intervals
from shared.evaluation.embed import EmbeddedSet
from shared.evaluation.metrics import (
    Roc,
    confusion,
    error_versus_reject,
    folded_accuracy,
    roc,
    supports_far,
)
from shared.evaluation.results import Evaluation, Folded, GroupComparison, Mirrored, RejectCurve
from shared.evaluation.scores import Scores, pair_similarity

REJECT_FMR = 1e-3


@dataclass(frozen=True)
class Measurement:
    """Results of a model on a pair set.

    Attributes:
        name: Name of the model.
        embedded: Embeddings of the images.
        scores: Similarities of the pairs.
        samples: Bootstrap samples of the figures.
        evaluation: The figures.
        groups: Error rates by group of people; None unless they were measured.
    """

    name: str
    embedded: EmbeddedSet
    scores: Scores
    samples: Samples
    evaluation: Evaluation
    groups: GroupComparison | None = None


def measure(
    name: str,
    embedded: EmbeddedSet,
    pair_set: PairSet,
    threshold: float,
    *,
    bootstrap_rounds: int = 200,
    seed: int = 0,
) -> Measurement:
    """Measure a model on a pair set.

    Args:
        name: Name of the model.
        embedded: Embeddings of the images of the set by the model.
        pair_set: The pair set.
        threshold: Threshold of the model version.
        bootstrap_rounds: Number of bootstrap samples; 0 means no intervals.
        seed: Seed of the bootstrap.
    """
    scores = score(embedded, pair_set)
    both_classes = bool(scores.genuine_pairs and scores.impostor_pairs)
    samples: Samples = {}
    if both_classes and bootstrap_rounds:
        samples = bootstrap(scores, _people(pair_set), threshold, bootstrap_rounds, seed)
    counted = confusion(scores, threshold)
    curve = roc(scores) if both_classes else None
    best_threshold, best_accuracy = curve.best() if curve else (None, None)
    evaluation = Evaluation(
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
        auc=curve.auc if curve else None,
        eer=curve.eer if curve else None,
        tar_at_far=_tar_at_far(scores, curve),
        intervals=intervals(samples),
        folded=_folded(scores, pair_set.folds) if both_classes else None,
        mirrored=_mirrored(embedded, pair_set) if both_classes else None,
        error_versus_reject=_reject(scores, pair_quality(embedded, pair_set)),
        mean_magnitude=float(embedded.magnitudes.mean()),
        images_per_second=embedded.images_per_second,
    )
    return Measurement(name, embedded, scores, samples, evaluation)


def score(embedded: EmbeddedSet, pair_set: PairSet) -> Scores:
    """Return the similarity of each pair of a set."""
    return Scores(pair_similarity(embedded.embeddings, pair_set.pairs), pair_set.labels)


def pair_quality(embedded: EmbeddedSet, pair_set: PairSet) -> NDArray[np.float64]:
    """Return the smaller magnitude of the two faces of each pair, float64 (P,)."""
    return np.asarray(embedded.magnitudes[pair_set.pairs].min(axis=1), dtype=np.float64)


def _tar_at_far(scores: Scores, curve: Roc | None) -> dict[str, float | None]:
    return {
        f"{far:g}": curve.at_far(far)[1] if curve and supports_far(scores, far) else None
        for far in FARS
    }


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
    if not (scores.genuine_pairs and supports_far(scores, REJECT_FMR)):
        return None
    curve = error_versus_reject(scores, quality, REJECT_FMR)
    return RejectCurve(fmr=REJECT_FMR, rejected=tuple(curve.rejected), fnmr=tuple(curve.fnmr))


def _people(pair_set: PairSet) -> NDArray[np.int32]:
    if pair_set.identities is None:
        return pair_set.pairs
    _, person = np.unique(np.array(pair_set.identities), return_inverse=True)
    return person.astype(np.int32)[pair_set.pairs]
