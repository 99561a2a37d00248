"""Measures a candidate beside its parent on people whom it was not trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from services.trainer.data.arrays import Features
from services.trainer.data.splits import Pairs
from services.trainer.evaluation.gate import Figures, compares
from shared.evaluation.calibration import fit_probability
from shared.evaluation.metrics import Weights, identity_bootstrap, roc
from shared.evaluation.scores import Scores
from shared.model.manifest import ProbabilityCurve

_BOOTSTRAP_ROUNDS = 400
_LOWER_END = 0.05


@dataclass(frozen=True)
class Views:
    """Features of the same N images under two versions, not normalised.

    Attributes:
        parent: float32 [N, D].
        child: float32 [N, D].
    """

    parent: Features
    child: Features


@dataclass(frozen=True)
class Judgement:
    """What was measured, and the calibration the candidate is to serve with.

    Thresholds lie where the calibrated probability is one half: on a few people the one with
    the fewest errors jumps about.
    """

    figures: Figures
    threshold: float
    probability: ProbabilityCurve


def judge(
    views: Views,
    validation: Pairs,
    held_out: Pairs,
    reference: tuple[Views, Pairs],
    seed: int,
) -> Judgement:
    """Measure everything the gate asks for.

    Args:
        views: Of the feedback's images.
        validation: Pairs that calibrate the thresholds.
        held_out: Pairs of other people, who decide.
        reference: Views of the reference faces, and the pairs to measure on them.
        seed: Of the bootstrap.
    """
    old, new = score(held_out, views.parent), score(held_out, views.child)
    old_threshold, new_threshold = (
        fit_probability(score(validation, features)).even
        for features in (views.parent, views.child)
    )
    shown = np.unique(held_out.images)
    faces, pairs = reference
    watched = np.unique(pairs.images)
    ratio, order = magnitude_figures(
        np.concatenate([views.child[shown], faces.child[watched]]),
        np.concatenate([views.parent[shown], faces.parent[watched]]),
    )
    figures = Figures(
        people=len(np.unique(held_out.people[held_out.genuine])),
        genuine_pairs=int(held_out.genuine.sum()),
        parent_error=error(old, old_threshold),
        child_error=error(new, new_threshold),
        parent_separation=separation(old),
        child_separation=separation(new),
        gain_low=gain_low(held_out, old, new, seed),
        mixed_error=error(score(held_out, views.child, views.parent), new_threshold),
        reference_parent_error=lowest_error(score(pairs, faces.parent)),
        reference_child_error=lowest_error(score(pairs, faces.child)),
        magnitude_ratio=ratio,
        magnitude_order=order,
    )
    # More people calibrate better, and the verdict no longer depends on it.
    both = _joined([score(pairs, views.child) for pairs in (validation, held_out)])
    probability = fit_probability(both)
    return Judgement(figures, probability.even, probability)


def goes_on_working(stored: Features, child: Features, validation: Pairs, held_out: Pairs) -> bool:
    """Whether embeddings that an earlier version stored compare with a candidate's.

    Args:
        stored: float32 [N, D], the earlier version's features, not normalised.
        child: float32 [N, D], the candidate's of the same images.
        validation: Pairs that calibrate the thresholds.
        held_out: Pairs of other people, who decide.
    """
    own, new = (fit_probability(score(validation, features)).even for features in (stored, child))
    return compares(
        mixed_error=error(score(held_out, child, stored), new),
        stored_error=error(score(held_out, stored), own),
    )


def _joined(parts: list[Scores]) -> Scores:
    return Scores(
        np.concatenate([part.similarity for part in parts]),
        np.concatenate([part.genuine for part in parts]),
    )


def score(pairs: Pairs, features: Features, stored: Features | None = None) -> Scores:
    """Similarities of pairs.

    Args:
        pairs: P pairs.
        features: float32 [N, D], not normalised.
        stored: float32 [N, D], another version's features of the same images: each
            pair is then scored twice, with the one and with the other image stored.

    Returns:
        P scores, or 2 P when `stored` is given.
    """
    left, right = pairs.images.T
    if stored is None:
        return Scores(_cosine(features[left], features[right]), pairs.genuine)
    both = [_cosine(features[left], stored[right]), _cosine(stored[left], features[right])]
    return Scores(np.concatenate(both), np.tile(pairs.genuine, 2))


def _cosine(left: Features, right: Features) -> NDArray[np.float64]:
    dots = np.einsum("pd,pd->p", left, right, dtype=np.float64)
    return np.asarray(dots / np.linalg.norm(left, axis=1) / np.linalg.norm(right, axis=1))


def separation(scores: Scores, weights: Weights | None = None) -> float:
    """Area under the ROC curve: how well the classes are told apart at any threshold."""
    return roc(scores, weights).auc


def lowest_error(scores: Scores) -> float:
    """Fewest errors at any threshold, both classes counting the same."""
    genuine = scores.genuine
    balanced = np.where(genuine, 0.5 / genuine.sum(), 0.5 / (~genuine).sum())
    return 1 - roc(scores, balanced).best()[1]


def error(scores: Scores, threshold: float) -> float:
    """Mean of FNMR and FMR at a threshold."""
    wrong = scores.decisions(threshold) != scores.genuine
    return float((wrong[scores.genuine].mean() + wrong[~scores.genuine].mean()) / 2)


def gain_low(pairs: Pairs, old: Scores, new: Scores, seed: int) -> float:
    """Lower end of the one-sided 95 % interval of the new separation minus the old.

    People, not pairs, are drawn with replacement. The separation is compared because it
    knows no threshold: one that happened to be calibrated better is no learning, and on
    few people it tells two versions apart more surely than their errors do.

    Args:
        pairs: P pairs.
        old: Scores of the pairs under the old version.
        new: The same under the new one.
        seed: Of the bootstrap.
    """
    gains = [
        separation(new, weights) - separation(old, weights)
        for weights in identity_bootstrap(pairs.people, pairs.genuine, _BOOTSTRAP_ROUNDS, seed)
    ]
    return float(np.quantile(gains, _LOWER_END))


def magnitude_figures(child: Features, parent: Features) -> tuple[float, float]:
    """Geometric mean of the ratio of the magnitudes, and their rank correlation.

    Args:
        child: float32 [N, D].
        parent: float32 [N, D], of the same images.
    """
    new, old = (np.linalg.norm(features, axis=1) for features in (child, parent))
    return float(np.exp(np.log(new / old).mean())), float(spearmanr(new, old).statistic)
