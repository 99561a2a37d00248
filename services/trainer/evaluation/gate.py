"""Whether a candidate may serve: decided on measured figures alone."""

import math
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.trainer.data.labels import MIN_PEOPLE


@dataclass(frozen=True)
class GateCheck:
    """One figure of a candidate held against its limit."""

    name: str
    passed: bool
    value: float
    limit: float
    detail: str


@dataclass(frozen=True)
class GateVerdict:
    """Whether a candidate may serve, and every check behind it."""

    checks: tuple[GateCheck, ...]

    @property
    def passed(self) -> bool:
        return bool(self.checks) and all(check.passed for check in self.checks)


MIN_GENUINE_PAIRS = 30
# Differences of error rates that users of the old version would notice.
MAX_REFERENCE_LOSS = 0.01
MAX_COMPATIBILITY_LOSS = 0.01
MAX_MAGNITUDE_CHANGE = 0.2
MIN_MAGNITUDE_ORDER = 0.7


@dataclass(frozen=True, kw_only=True)
class Figures:
    """What was measured on people and faces that the candidate was not trained on.

    Error rates are the mean of FNMR and FMR, 0..1; each version at a threshold calibrated
    on the same validation people, who are not those measured on.

    Attributes:
        people: Held-out people with a genuine pair.
        genuine_pairs: Their genuine pairs.
        parent_error: Of the parent on held-out pairs.
        child_error: Of the candidate on the same pairs.
        parent_separation: Area under the parent's ROC curve on held-out pairs.
        child_separation: The same of the candidate.
        gain_low: Lower end of the one-sided 95 % bootstrap interval, over people, of
            the candidate's separation minus the parent's.
        mixed_error: Of pairs of a candidate's embedding and a stored parent's, at the
            candidate's threshold.
        reference_parent_error: On reference faces, each version at its best threshold
            there.
        reference_child_error: The same of the candidate.
        magnitude_ratio: Geometric mean of the candidate's magnitudes over the parent's.
        magnitude_order: Spearman's rank correlation of the two versions' magnitudes.
    """

    people: int
    genuine_pairs: int
    parent_error: float
    child_error: float
    parent_separation: float
    child_separation: float
    gain_low: float
    mixed_error: float
    reference_parent_error: float
    reference_child_error: float
    magnitude_ratio: float
    magnitude_order: float


def decide(figures: Figures, *, self_check: bool) -> GateVerdict:
    """Hold each figure against its limit; a figure that is no number fails.

    Args:
        figures: What was measured.
        self_check: Whether the exported version, loaded again, gives what it gave when
            it was made.
    """
    return GateVerdict(
        (*_evidence(figures), *_no_forgetting(figures), *_magnitude(figures), _check(self_check))
    )


def is_compatible(figures: Figures) -> bool:
    """Whether embeddings stored under the parent go on working with the candidate."""
    return _compatibility(figures).passed


def compares(*, mixed_error: float, stored_error: float) -> bool:
    """Whether pairs of a new and a stored embedding go wrong hardly more than stored ones did."""
    return mixed_error - stored_error <= MAX_COMPATIBILITY_LOSS


def _at_least(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value >= limit, value, limit, detail)


def _at_most(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value <= limit, value, limit, detail)


def _evidence(figures: Figures) -> tuple[GateCheck, ...]:
    gain = GateCheck(
        "heldout_gain",
        figures.gain_low > 0,
        figures.gain_low,
        0.0,
        f"separation (AUC) of held-out people {figures.parent_separation:.4f} -> "
        f"{figures.child_separation:.4f}; the lower end of the 95 % bootstrap interval of the "
        "gain must be above 0",
    )
    return (
        _at_least(
            "heldout_people", figures.people, MIN_PEOPLE, "held-out people with a genuine pair"
        ),
        _at_least(
            "heldout_pairs",
            figures.genuine_pairs,
            MIN_GENUINE_PAIRS,
            "genuine pairs of held-out people",
        ),
        gain,
        _at_most(
            "heldout_errors",
            figures.child_error,
            figures.parent_error,
            f"errors on held-out people {figures.parent_error:.2%} -> {figures.child_error:.2%}, "
            "at thresholds calibrated on other people",
        ),
    )


def _no_forgetting(figures: Figures) -> tuple[GateCheck, ...]:
    old, new = figures.reference_parent_error, figures.reference_child_error
    return (
        _at_most(
            "reference_loss",
            new - old,
            MAX_REFERENCE_LOSS,
            f"errors on reference faces {old:.2%} -> {new:.2%}, each at its best threshold",
        ),
        _compatibility(figures),
    )


def _compatibility(figures: Figures) -> GateCheck:
    return _at_most(
        "compatibility_loss",
        figures.mixed_error - figures.parent_error,
        MAX_COMPATIBILITY_LOSS,
        f"errors between new embeddings and stored ones {figures.mixed_error:.2%}, "
        f"among stored ones {figures.parent_error:.2%}",
    )


def _magnitude(figures: Figures) -> tuple[GateCheck, ...]:
    ratio = figures.magnitude_ratio
    change = abs(math.log(ratio)) if ratio > 0 else math.nan
    return (
        _at_most(
            "magnitude_change",
            change,
            MAX_MAGNITUDE_CHANGE,
            f"|log| of the ratio of the magnitudes, which is {ratio:.3f}",
        ),
        _at_least(
            "magnitude_order",
            figures.magnitude_order,
            MIN_MAGNITUDE_ORDER,
            "rank correlation of the magnitudes with the parent's: what quality means",
        ),
    )


def _check(self_check: bool) -> GateCheck:
    return _at_least(
        "self_check",
        float(self_check),
        1.0,
        "the exported version gives its golden embeddings when it is loaded",
    )


class _Stored(BaseModel):
    # A broken candidate has NaN among its figures, for which jsonb has no number.
    model_config = ConfigDict(ser_json_inf_nan="strings")

    verdict: GateVerdict


def verdict_to_json(verdict: GateVerdict | None) -> str | None:
    """Write a verdict as a JSON document."""
    return None if verdict is None else _Stored(verdict=verdict).model_dump_json()


def verdict_from_json(stored: Any) -> GateVerdict | None:
    """Read what `verdict_to_json` wrote, as psycopg gives it back from jsonb.

    Raises:
        pydantic.ValidationError: If it is something else.
    """
    return None if stored is None else _Stored.model_validate(stored).verdict
