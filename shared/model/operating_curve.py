"""Operating curve of a model version: its thresholds and error rates by false-match rate."""

import math
from bisect import bisect_left
from functools import cached_property
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, model_validator

FMRS: Final = (
    *(1.0, 0.7, 0.5, 0.3, 0.2, 0.15),
    *(float(f"{step}e-{power}") for power in range(2, 7) for step in (10, 7, 5, 3, 2, 1.5)),
    1e-6,
)
"""False-match rates that a curve is measured at, falling: six a decade down to 1e-6."""

HIGHEST_TARGET: Final = 0.1
"""The highest false-match rate that can be served."""

FEWEST_MATCHES: Final = 10
"""Expected false matches from which a false-match rate counts as measured.

ISO/IEC 19795-1 asks for 30 errors for an interval of +-30 %.
"""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rate(_Frozen):
    """An error rate with its 95 % interval, resampled by person."""

    value: float = Field(ge=0, le=1)
    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)


class Evidence(_Frozen):
    """What a figure was measured on.

    Attributes:
        people: People in these pairs.
    """

    pairs: int = Field(ge=0)
    people: int = Field(ge=0)


class OperatingPoint(_Frozen):
    """A point of the curve.

    Attributes:
        target: The false-match rate that the threshold keeps.
        threshold: Cosine similarity from which two faces are the same person.
        fmr: Measured false-match rate at the threshold; its value is not above the target.
        fnmr: Measured false-non-match rate at the threshold.
    """

    target: float = Field(gt=0, le=1)
    threshold: float = Field(ge=-1.01, le=1.01)
    fmr: Rate
    fnmr: Rate


class OperatingCurve(_Frozen):
    """Operating points that the evidence resolves (ISO/IEC 19795-1: error rates with intervals).

    Attributes:
        points: By falling target, so by rising threshold; they begin with target 1.
        impostor: The impostor pairs behind it, of people that the version was not trained on.
        genuine: The genuine pairs behind it.
    """

    points: tuple[OperatingPoint, ...] = Field(min_length=1)
    impostor: Evidence
    genuine: Evidence

    @model_validator(mode="after")
    def _ordered(self) -> "OperatingCurve":
        targets = [point.target for point in self.points]
        if targets[0] != 1 or targets != sorted(set(targets), reverse=True):
            raise ValueError("the targets must fall from 1")
        if self._thresholds != sorted(self._thresholds):
            raise ValueError("the thresholds must rise")
        return self

    def at(self, fmr: float) -> OperatingPoint:
        """Return the point with the highest target that is not above a false-match rate.

        Where the evidence resolves no such target, it is the strictest point.
        """
        kept = (point for point in self.points if point.target <= fmr * (1 + 1e-9))
        return next(kept, self.points[-1])

    def missing_people(self, fmr: float) -> int:
        """Estimate how many more people with as many images resolve a false-match rate.

        Returns:
            0 if it is resolved. The pairs grow with the square of the people.
        """
        strictest = self.at(fmr).target
        if strictest <= fmr * (1 + 1e-9):
            return 0
        people, pairs = self.impostor.people, self.impostor.pairs
        counted = people * math.sqrt(FEWEST_MATCHES / fmr / max(pairs, 1))
        # Where the interval over people is the limit, the strictest rate shows what they resolve.
        needed = max(counted, people * math.sqrt(strictest / fmr))
        return max(1, math.ceil(needed) - people)

    def false_match_rate(self, similarity: float) -> float:
        """Return the share of strangers whose similarity is at least as high, 0..1.

        Between two points it is interpolated on a logarithmic scale. Above the last threshold
        it is the last target, an upper bound.
        """
        thresholds = self._thresholds
        after = bisect_left(thresholds, similarity)
        if after == len(thresholds):
            return self.points[-1].target
        if after == 0:
            return self.points[0].target
        low, high = thresholds[after - 1], thresholds[after]
        part = (similarity - low) / (high - low)
        logs = self._log_targets
        return math.exp(logs[after - 1] + part * (logs[after] - logs[after - 1]))

    @cached_property
    def _thresholds(self) -> list[float]:
        return [point.threshold for point in self.points]

    @cached_property
    def _log_targets(self) -> list[float]:
        return [math.log(point.target) for point in self.points]
