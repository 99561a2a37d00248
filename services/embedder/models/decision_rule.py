"""Decision rule of a model version: its threshold at the operating point in force."""

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from shared.model.manifest import Manifest, ProbabilityCurve
from shared.model.operating_curve import OperatingCurve
from shared.registry.serving_pointer import Prior, TargetFmr


@dataclass(frozen=True, slots=True)
class FmrTarget:
    """What the operator asks of every version that serves.

    Attributes:
        target_fmr: Target false-match rate; None serves each version at its own threshold.
        prior: Prior probability of a genuine pair.
    """

    target_fmr: TargetFmr | None = None
    prior: Prior = 0.5


NO_TARGET: Final = FmrTarget()


@dataclass(frozen=True, slots=True)
class DecisionRule:
    """How one version judges similarities.

    Attributes:
        target: The operating point that the rule is for.
        threshold: Similarity from which two faces are the same person; a float32 number, as
            callers get it.
        kept_fmr: False-match rate that the threshold keeps; None without a target or a measured
            curve.
    """

    target: FmrTarget
    threshold: float
    kept_fmr: float | None
    _probability: ProbabilityCurve | None
    _operating_curve: OperatingCurve | None

    @classmethod
    def of(cls, manifest: Manifest, target: FmrTarget) -> "DecisionRule":
        """Return the rule of a version at an operating point."""
        point = manifest.kept_point(target.target_fmr)
        return cls(
            target,
            float(np.float32(manifest.threshold)) if point is None else _ceil32(point.threshold),
            None if point is None else point.target,
            manifest.probability and _at_prior(manifest.probability, target.prior),
            manifest.operating_curve,
        )

    def probability(self, similarity: float) -> float | None:
        """Return the probability of a genuine pair, 0..1; None if it is not calibrated."""
        if self._probability is None:
            return None
        return float(self._probability(np.asarray(similarity)))

    def false_match_rate(self, similarity: float) -> float | None:
        """Return the share of strangers at least as similar, 0..1; None if it is not measured."""
        if self._operating_curve is None:
            return None
        return self._operating_curve.false_match_rate(similarity)


def _at_prior(curve: ProbabilityCurve, prior: float) -> ProbabilityCurve:
    log_odds = math.log(prior) - math.log1p(-prior)
    return ProbabilityCurve(slope=curve.slope, intercept=curve.intercept + log_odds)


def _ceil32(threshold: float) -> float:
    """Round up to float32.

    A float32 similarity is then above the rounded threshold if and only if it is above the exact
    one, so rounding adds no false match.
    """
    nearest = np.float32(threshold)
    # As float64: numpy compares a float32 with a Python number in float32.
    if float(nearest) < threshold:
        nearest = np.nextafter(nearest, np.float32(np.inf))
    return float(nearest)
