"""Figures of a network on unseen people."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.calibration import fit_probability
from shared.evaluation.metrics import roc
from shared.evaluation.scores import Scores

FAR = 1e-2

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Figures:
    """Figures on all pairs of the test people, with equal weight of genuine and impostor pairs.

    Attributes:
        accuracy: Accuracy at `threshold`.
        threshold: Similarity at which the match probability, fitted on the calibration people, is
            one half. The product sets its threshold in the same way.
        accuracy_at_fewest: Accuracy at the threshold with the fewest errors on the calibration
            people.
        tar: TAR at a FAR of `FAR`.
        stored_tar: The same, with one embedding of each pair computed by the parent.
        magnitude: Mean magnitude.
    """

    accuracy: float
    threshold: float
    accuracy_at_fewest: float
    tar: float
    stored_tar: float
    magnitude: float


def figures(
    calibration: tuple[Floats, NDArray[np.int64]],
    test: tuple[Floats, NDArray[np.int64]],
    stored: Floats,
) -> Figures:
    """Measure a network.

    Args:
        calibration: Features [N, D], not normalised, and persons [N], of the calibration people.
        test: The same, of the test people.
        stored: The parent's features of the test people's images.
    """
    features, persons = calibration
    calibration_scores = _scores(features, features, persons)
    threshold = fit_probability(calibration_scores).even
    fewest, _ = roc(*_balanced(calibration_scores)).best()
    features, persons = test
    scores = _scores(features, features, persons)
    _, tar = roc(scores).at_far(FAR)
    _, stored_tar = roc(_scores(features, stored, persons)).at_far(FAR)
    return Figures(
        accuracy=_accuracy(scores, threshold),
        threshold=threshold,
        accuracy_at_fewest=_accuracy(scores, fewest),
        tar=tar,
        stored_tar=stored_tar,
        magnitude=float(np.linalg.norm(features, axis=1).mean()),
    )


def _scores(left: Floats, right: Floats, persons: NDArray[np.int64]) -> Scores:
    """Score every pair of two different images, in both orders."""
    similarity = (_unit(left) @ _unit(right).T).astype(np.float64)
    pairs = ~np.eye(len(persons), dtype=bool)
    same = persons[:, None] == persons[None, :]
    return Scores(similarity[pairs], same[pairs])


def _accuracy(scores: Scores, threshold: float) -> float:
    right = scores.decisions(threshold) == scores.genuine
    return float((right[scores.genuine].mean() + right[~scores.genuine].mean()) / 2)


def _balanced(scores: Scores) -> tuple[Scores, NDArray[np.float64]]:
    weights = np.where(scores.genuine, 1 / scores.genuine_pairs, 1 / scores.impostor_pairs)
    return scores, weights


def _unit(features: Floats) -> Floats:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)
