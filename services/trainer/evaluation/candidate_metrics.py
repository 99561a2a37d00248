"""Metrics of a candidate beside its parent, on people that neither was trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from services.trainer.data.arrays import FeatureArray
from services.trainer.data.splits import EvaluationPairs
from services.trainer.evaluation.gate import CandidateFigures, within_compatibility_limit
from shared.evaluation.calibration import fit_probability
from shared.evaluation.metrics import Weights, identity_bootstrap, roc
from shared.evaluation.scores import Scores
from shared.model.manifest import ProbabilityCurve

_BOOTSTRAP_ROUNDS = 400
_LOWER_QUANTILE = 0.05


@dataclass(frozen=True)
class ComparedFeatures:
    """Features of the same N images under two versions, not normalised.

    Attributes:
        parent: float32 [N, D].
        child: float32 [N, D], the candidate's.
    """

    parent: FeatureArray
    child: FeatureArray


@dataclass(frozen=True)
class CandidateEvaluation:
    """The measured figures, and the calibration that the candidate serves with.

    Attributes:
        figures: Input of the gate.
        threshold: Cosine similarity at which the calibrated probability is one half. On few
            people the threshold with the fewest errors varies too much.
        probability: From a cosine similarity to the probability of a genuine pair.
    """

    figures: CandidateFigures
    threshold: float
    probability: ProbabilityCurve


def evaluate_candidate(
    feedback: ComparedFeatures,
    validation: EvaluationPairs,
    held_out: EvaluationPairs,
    reference: tuple[ComparedFeatures, EvaluationPairs],
    seed: int,
) -> CandidateEvaluation:
    """Measure everything that the gate needs.

    Args:
        feedback: Features of the feedback's images.
        validation: Pairs for the calibration of the thresholds.
        held_out: Pairs of other people, on which the gate decides.
        reference: Features of the reference faces, and the pairs to measure on.
        seed: Seed of the bootstrap.
    """
    old, new = score_pairs(held_out, feedback.parent), score_pairs(held_out, feedback.child)
    old_threshold, new_threshold = (
        fit_probability(score_pairs(validation, features)).even
        for features in (feedback.parent, feedback.child)
    )
    held_out_images = np.unique(held_out.images)
    faces, pairs = reference
    reference_images = np.unique(pairs.images)
    ratio, order = compare_magnitudes(
        np.concatenate([feedback.child[held_out_images], faces.child[reference_images]]),
        np.concatenate([feedback.parent[held_out_images], faces.parent[reference_images]]),
    )
    figures = CandidateFigures(
        people=len(np.unique(held_out.people[held_out.genuine])),
        genuine_pairs=int(held_out.genuine.sum()),
        parent_error=balanced_error(old, old_threshold),
        child_error=balanced_error(new, new_threshold),
        parent_separation=auc(old),
        child_separation=auc(new),
        gain_low=auc_gain_lower_bound(held_out, old, new, seed),
        mixed_error=balanced_error(
            score_pairs(held_out, feedback.child, feedback.parent), new_threshold
        ),
        reference_parent_error=lowest_balanced_error(score_pairs(pairs, faces.parent)),
        reference_child_error=lowest_balanced_error(score_pairs(pairs, faces.child)),
        magnitude_ratio=ratio,
        magnitude_order=order,
    )
    # The figures are measured, so the held-out people can improve the final calibration.
    probability = fit_probability(
        _joined([score_pairs(pairs, feedback.child) for pairs in (validation, held_out)])
    )
    return CandidateEvaluation(figures, probability.even, probability)


def is_backward_compatible(
    stored: FeatureArray,
    child: FeatureArray,
    validation: EvaluationPairs,
    held_out: EvaluationPairs,
) -> bool:
    """Tell whether an earlier version's stored embeddings can be compared with a candidate's.

    Args:
        stored: float32 [N, D], the earlier version's features, not normalised.
        child: float32 [N, D], the candidate's features of the same images.
        validation: Pairs for the calibration of the thresholds.
        held_out: Pairs of other people, to measure on.
    """
    stored_threshold, child_threshold = (
        fit_probability(score_pairs(validation, features)).even for features in (stored, child)
    )
    return within_compatibility_limit(
        mixed_error=balanced_error(score_pairs(held_out, child, stored), child_threshold),
        stored_error=balanced_error(score_pairs(held_out, stored), stored_threshold),
    )


def score_pairs(
    pairs: EvaluationPairs, features: FeatureArray, stored: FeatureArray | None = None
) -> Scores:
    """Compute the cosine similarities of pairs.

    Args:
        pairs: P pairs.
        features: float32 [N, D], not normalised.
        stored: float32 [N, D], another version's features of the same images. Each pair is
            then scored twice: with one image stored, and with the other.

    Returns:
        P scores, or 2 P with `stored`.
    """
    left, right = pairs.images.T
    if stored is None:
        return Scores(_cosine(features[left], features[right]), pairs.genuine)
    both = [_cosine(features[left], stored[right]), _cosine(stored[left], features[right])]
    return Scores(np.concatenate(both), np.tile(pairs.genuine, 2))


def auc(scores: Scores, weights: Weights | None = None) -> float:
    """Area under the ROC curve."""
    return roc(scores, weights).auc


def balanced_error(scores: Scores, threshold: float) -> float:
    """Mean of FNMR and FMR at a threshold."""
    wrong = scores.decisions(threshold) != scores.genuine
    return float((wrong[scores.genuine].mean() + wrong[~scores.genuine].mean()) / 2)


def lowest_balanced_error(scores: Scores) -> float:
    """Lowest mean of FNMR and FMR at any threshold."""
    genuine = scores.genuine
    balanced = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())
    return 1 - roc(scores, balanced).best()[1]


def auc_gain_lower_bound(pairs: EvaluationPairs, old: Scores, new: Scores, seed: int) -> float:
    """Lower end of the one-sided 95 % interval of the new AUC minus the old one.

    The bootstrap draws people, not pairs, with replacement. The AUC is compared because it
    depends on no threshold: a threshold that happens to be calibrated better is not a gain. On
    few people it also separates two versions more reliably than their errors do.

    Args:
        pairs: P pairs.
        old: Scores of the pairs under the old version.
        new: Scores of the pairs under the new version.
        seed: Seed of the bootstrap.
    """
    gains = [
        auc(new, weights) - auc(old, weights)
        for weights in identity_bootstrap(pairs.people, pairs.genuine, _BOOTSTRAP_ROUNDS, seed)
    ]
    return float(np.quantile(gains, _LOWER_QUANTILE))


def compare_magnitudes(child: FeatureArray, parent: FeatureArray) -> tuple[float, float]:
    """Return the geometric mean of the magnitude ratios, and the rank correlation.

    Args:
        child: float32 [N, D].
        parent: float32 [N, D], of the same images.
    """
    new, old = (np.linalg.norm(features, axis=1) for features in (child, parent))
    return float(np.exp(np.log(new / old).mean())), float(spearmanr(new, old).statistic)


def _joined(parts: list[Scores]) -> Scores:
    return Scores(
        np.concatenate([part.similarity for part in parts]),
        np.concatenate([part.genuine for part in parts]),
    )


def _cosine(left: FeatureArray, right: FeatureArray) -> NDArray[np.float64]:
    dots = np.einsum("pd,pd->p", left, right, dtype=np.float64)
    return np.asarray(dots / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))
