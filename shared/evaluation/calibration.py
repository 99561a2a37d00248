"""From similarities to numbers a person can use: threshold and probability."""

from sklearn.linear_model import LogisticRegression

from shared.evaluation.metrics import roc, tar_at_far
from shared.evaluation.scores import Scores
from shared.model.manifest import ProbabilityCurve


def best_accuracy_threshold(scores: Scores) -> float:
    """Threshold with the fewest wrong decisions on these pairs."""
    threshold, _ = roc(scores).best()
    return threshold


def far_threshold(scores: Scores, far: float) -> float:
    """Lowest threshold whose FAR on these pairs does not exceed `far`.

    Raises:
        InvalidInput: If the impostor pairs are too few to measure it.
    """
    return tar_at_far(scores, far).threshold


def fit_probability(scores: Scores) -> ProbabilityCurve:
    """Fit similarity -> probability, both classes weighing the same whatever their number."""
    scores.need_both_classes("the probability")
    model = LogisticRegression(class_weight="balanced", C=1e3)
    model.fit(scores.similarity[:, None], scores.genuine)
    return ProbabilityCurve(slope=float(model.coef_[0, 0]), intercept=float(model.intercept_[0]))
