"""How likely two images of a pool show the same person, by how far their similarity stands out.

A version's own curve answers for pairs drawn at random. Among nearest neighbours, the best of
thousands, nearly everything lies above its threshold: of 600 pairs around it 8 were genuine, fewer
than at random (`make bench-selection`). What tells there is the similarity less the mean of what
both images reach with their own neighbours, which is the measure of Conneau et al. 2018, "Word
translation without parallel data", section 2.3. The labels at hand turn it into a probability, and
say how much the version's curve adds.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.pool.calibration import Calibration, FloatArray

# Offset, standing out by one standard deviation, the curve's log odds: what fits rendered and
# real people alike, and how far labels may move it.
_AT_FIRST: Final = np.array([-3.5, 1.5, 0.0])
_MOVES: Final = np.array([3.0, 1.0, 0.5])
_ROUNDS: Final = 30
_FLATTEST: Final = 1e-6
_SETTLED: Final = 1e-6


@dataclass(frozen=True, slots=True)
class MatchProbability:
    """A logistic function of how far links stand out and of the version's curve.

    Attributes:
        centre: Mean of how far the pool's links stand out.
        spread: Its standard deviation.
        weights: float [3]: offset, of standing out, of the curve's log odds.
    """

    calibration: Calibration
    centre: float
    spread: float
    weights: FloatArray

    def probability(self, similarity: FloatArray, csls: FloatArray) -> FloatArray:
        """How likely links are genuine: float [L] from two of [L]."""
        return _logistic(self._features(similarity, csls) @ self.weights)

    def learn(self, similarity: FloatArray, csls: FloatArray, same: NDArray[np.bool_]) -> "MatchProbability":
        """Fit the weights to labelled pairs, starting from what held before any label.

        Args:
            similarity: float [P].
            csls: float [P].
            same: bool [P], what people say.
        """
        features = self._features(similarity, csls)
        signs = np.where(same, 1.0, -1.0)

        def loss(weights: FloatArray) -> float:
            misfit = np.logaddexp(0, -signs * (features @ weights)).sum()
            return float(misfit + ((weights - _AT_FIRST) ** 2 / _MOVES**2).sum() / 2)

        weights = _AT_FIRST
        for _ in range(_ROUNDS):
            probability = _logistic(features @ weights)
            slope = features.T @ (same - probability) - (weights - _AT_FIRST) / _MOVES**2
            bend = (features.T * (probability * (1 - probability))) @ features
            step = np.linalg.solve(bend + np.diag(1 / _MOVES**2), slope)
            # A whole step of Newton's method may overshoot and never come back.
            while loss(weights + step) > loss(weights) and np.abs(step).max() > _SETTLED:
                step = step / 2
            if np.abs(step).max() <= _SETTLED:
                break
            weights = weights + step
        return MatchProbability(self.calibration, self.centre, self.spread, weights)

    def _features(self, similarity: FloatArray, csls: FloatArray) -> FloatArray:
        apart = (csls - self.centre) / self.spread
        return np.column_stack((np.ones(len(apart)), apart, self.calibration.log_odds(similarity)))


def prior_match_probability(calibration: Calibration, csls: FloatArray) -> MatchProbability:
    """Believe what held for other pools, before any label of this one.

    Args:
        calibration: Of the version.
        csls: float [L], of the links of the pool, or of a sample of them.
    """
    if len(csls) == 0:
        return MatchProbability(calibration, 0.0, 1.0, _AT_FIRST)
    spread = max(float(csls.std()), _FLATTEST)
    return MatchProbability(calibration, float(csls.mean()), spread, _AT_FIRST)


def _logistic(odds: FloatArray) -> FloatArray:
    # The form of it that cannot overflow.
    return np.asarray((1 + np.tanh(odds / 2)) / 2)
