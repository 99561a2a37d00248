"""Calibration: decision thresholds and the probability curve (Platt scaling)."""

from sklearn.linear_model import LogisticRegression

from shared.evaluation.metrics import roc, tar_at_far
from shared.evaluation.scores import Scores
from shared.model.manifest import ProbabilityCurve


def best_accuracy_threshold(scores: Scores) -> float:
    """Return the threshold with the fewest wrong decisions on the pairs."""
    threshold, _ = roc(scores).best()
    return threshold


def far_threshold(scores: Scores, far: float) -> float:
    """Return the lowest threshold whose FAR on the pairs does not exceed `far`.

    Raises:
        InvalidInput: If there are too few impostor pairs to measure that FAR.
    """
    return tar_at_far(scores, far).threshold


def fit_probability(scores: Scores) -> ProbabilityCurve:
    """Fit the probability that a pair is genuine; both classes have the same total weight."""
    scores.need_both_classes("the probability")
    model = LogisticRegression(class_weight="balanced", C=1e3)
    model.fit(scores.similarity[:, None], scores.genuine)
    return ProbabilityCurve(slope=float(model.coef_[0, 0]), intercept=float(model.intercept_[0]))
