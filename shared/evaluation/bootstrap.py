"""Bootstrap confidence intervals of verification figures, resampling people."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from shared.evaluation.metrics import Roc, identity_bootstrap, roc, supports_far
from shared.evaluation.results import Difference, Interval
from shared.evaluation.scores import Scores

FARS = (1e-1, 1e-2, 1e-3, 1e-4)
_ENDS = (0.025, 0.975)

Samples = Mapping[str, NDArray[np.float64]]
"""Values of each figure over the rounds of the bootstrap, float64 (R,)."""


def bootstrap(
    scores: Scores, people: NDArray[np.int32], threshold: float, rounds: int, seed: int
) -> Samples:
    """Compute the figures on bootstrap samples; see `metrics.identity_bootstrap`.

    Two models that are measured on the same pairs with the same seed get the same samples, so
    their figures can be compared round by round.

    Args:
        scores: P pairs of both classes.
        people: (P, 2), number of the person on each side.
        threshold: Threshold for the accuracy.
        rounds: Number of samples.
        seed: Seed of the samples.
    """
    # scikit-learn sorts the scores in every round, which is fast when they are sorted already.
    order = np.argsort(-scores.similarity, kind="stable")
    ranked = Scores(scores.similarity[order], scores.genuine[order])
    right = ranked.decisions(threshold) == ranked.genuine
    fars = [far for far in FARS if supports_far(scores, far)]
    samples: dict[str, list[float]] = {}
    for weights in identity_bootstrap(people, scores.genuine, rounds, seed):
        ranked_weights = weights[order]
        figures = {
            "accuracy": float(np.average(right, weights=ranked_weights)),
            **_figures_of(roc(ranked, ranked_weights), fars),
        }
        for name, value in figures.items():
            samples.setdefault(name, []).append(value)
    return {name: np.array(values) for name, values in samples.items()}


def _figures_of(curve: Roc, fars: list[float]) -> dict[str, float]:
    return {
        "best_accuracy": curve.best()[1],
        "auc": curve.auc,
        "eer": curve.eer,
        **{f"tar_at_far.{far:g}": curve.at_far(far)[1] for far in fars},
    }


def intervals(samples: Samples) -> dict[str, Interval]:
    """Return the 95 % percentile intervals."""
    found = {}
    for name, values in samples.items():
        low, high = np.quantile(values, _ENDS)
        found[name] = Interval(low=float(low), high=float(high))
    return found


def differences(old: Samples, new: Samples, values: Mapping[str, float]) -> dict[str, Difference]:
    """Return 95 % intervals of the paired differences between two models.

    Args:
        old: Samples of the old model.
        new: Samples of the new model, with the same seed on the same pairs.
        values: Differences on the whole set, new minus old, by figure.
    """
    found = {}
    for name, value in values.items():
        low, high = np.quantile(new[name] - old[name], _ENDS)
        found[name] = Difference(value=value, low=float(low), high=float(high))
    return found
