"""What the learning benchmark reports of a network on unseen people."""

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
    """Figures on all pairs of the test people; genuine and impostor pairs weigh the same.

    Attributes:
        accuracy: At `threshold`.
        threshold: Where the probability that is calibrated on the calibration people is one
            half, as the product sets it.
        accuracy_at_fewest: At the threshold with the fewest errors on the calibration people.
        tar: At a FAR of `FAR`.
        stored_tar: The same with one embedding of each pair stored by the parent.
        magnitude: Mean.
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
        test: The same of the test people.
        stored: The parent's features of the test people's images.
    """
    known, persons = calibration
    calibration_scores = _scores(known, known, persons)
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
    """Of every couple of two images, in both orders."""
    similarity = (_unit(left) @ _unit(right).T).astype(np.float64)
    couples = ~np.eye(len(persons), dtype=bool)
    same = persons[:, None] == persons[None, :]
    return Scores(similarity[couples], same[couples])


def _accuracy(scores: Scores, threshold: float) -> float:
    right = scores.decisions(threshold) == scores.genuine
    return float((right[scores.genuine].mean() + right[~scores.genuine].mean()) / 2)


def _balanced(scores: Scores) -> tuple[Scores, NDArray[np.float64]]:
    weights = np.where(scores.genuine, 1 / scores.genuine_pairs, 1 / scores.impostor_pairs)
    return scores, weights


def _unit(features: Floats) -> Floats:
    return np.asarray(features / np.linalg.norm(features, axis=1, keepdims=True), np.float32)
