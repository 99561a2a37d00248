"""Match probability: how likely two images of the pool show the same person.

A version's own curve holds for pairs drawn at random. Between nearest neighbours, the best of
thousands, nearly all similarities are above its threshold: of 600 pairs around it 8 were genuine,
fewer than at random (`make bench-selection`). What separates them is the similarity less the mean
similarity of both images to their own neighbours. That is half of the cross-domain similarity
local scaling (CSLS) of Conneau et al. 2018, "Word translation without parallel data", section
2.3. Labels fit its relation to the probability, and the weight of the version's curve.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.pool.calibration import Calibration

# Prior of the weights of offset, CSLS in standard deviations, and log odds by the curve: mean
# and standard deviation. The mean fits rendered and real people.
_PRIOR_MEAN: Final = np.array([-3.5, 1.5, 0.0])
_PRIOR_SPREAD: Final = np.array([3.0, 1.0, 0.5])
_MOST_STEPS: Final = 30
_SMALLEST_SPREAD: Final = 1e-6
_CONVERGED: Final = 1e-6


@dataclass(frozen=True, slots=True)
class MatchProbability:
    """A logistic model of the CSLS of links and of the version's curve.

    Attributes:
        calibration: Of the version.
        centre: Mean CSLS of the pool's links.
        spread: Standard deviation of the CSLS of the pool's links.
        weights: float [3]: of offset, CSLS, and log odds by the curve.
    """

    calibration: Calibration
    centre: float
    spread: float
    weights: NDArray[np.float64]

    def probability(
        self, similarity: NDArray[np.float64], csls: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Probability of L links to be genuine: float [L].

        Args:
            similarity: float [L].
            csls: float [L].
        """
        return _logistic(self._features(similarity, csls) @ self.weights)

    def fit(
        self, similarity: NDArray[np.float64], csls: NDArray[np.float64], same: NDArray[np.bool_]
    ) -> "MatchProbability":
        """Fit the weights to labelled pairs, by maximum a posteriori with Newton's method.

        Args:
            similarity: float [P].
            csls: float [P].
            same: bool [P], the labels.
        """
        features = self._features(similarity, csls)
        signs = np.where(same, 1.0, -1.0)

        def loss(weights: NDArray[np.float64]) -> float:
            misfit = np.logaddexp(0, -signs * (features @ weights)).sum()
            return float(misfit + ((weights - _PRIOR_MEAN) ** 2 / _PRIOR_SPREAD**2).sum() / 2)

        weights = _PRIOR_MEAN
        for _ in range(_MOST_STEPS):
            probability = _logistic(features @ weights)
            gradient = (
                features.T @ (same - probability) - (weights - _PRIOR_MEAN) / _PRIOR_SPREAD**2
            )
            curvature = (features.T * (probability * (1 - probability))) @ features
            step = np.linalg.solve(curvature + np.diag(1 / _PRIOR_SPREAD**2), gradient)
            # A full step may overshoot and diverge.
            while loss(weights + step) > loss(weights) and np.abs(step).max() > _CONVERGED:
                step = step / 2
            if np.abs(step).max() <= _CONVERGED:
                break
            weights = weights + step
        return MatchProbability(self.calibration, self.centre, self.spread, weights)

    def _features(
        self, similarity: NDArray[np.float64], csls: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        scaled = (csls - self.centre) / self.spread
        log_odds = self.calibration.log_odds(similarity)
        return np.column_stack((np.ones(len(scaled)), scaled, log_odds))


def prior_match_probability(
    calibration: Calibration, csls: NDArray[np.float64]
) -> MatchProbability:
    """Make the model without labels, by the prior that other pools gave.

    Args:
        calibration: Of the version.
        csls: float [L], of the links of the pool, or of a sample of them.
    """
    if len(csls) == 0:
        return MatchProbability(calibration, 0.0, 1.0, _PRIOR_MEAN)
    spread = max(float(csls.std()), _SMALLEST_SPREAD)
    return MatchProbability(calibration, float(csls.mean()), spread, _PRIOR_MEAN)


def _logistic(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    # This form cannot overflow.
    return np.asarray((1 + np.tanh(log_odds / 2)) / 2)
