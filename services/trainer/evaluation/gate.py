"""Promotion gate: decides from measured figures whether a candidate may serve."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.trainer.data.labels import MIN_GENUINE_PAIRS, MIN_PEOPLE

# Differences of error rates that users of the old version would notice.
MAX_REFERENCE_LOSS = 0.01
MAX_COMPATIBILITY_LOSS = 0.01
MAX_MAGNITUDE_CHANGE = 0.2
MIN_MAGNITUDE_ORDER = 0.7


@dataclass(frozen=True)
class GateCheck:
    """One figure of a candidate and its limit.

    Attributes:
        detail: Explanation for a person.
        low: Lower end of the interval of the value over people; None if it has none.
        high: Its upper end.
        people: People that the value was measured on; 0 where that has no meaning.
        pairs: Pairs that the value was measured on.
        undecided: It did not pass for want of evidence, not because the value is bad.
    """

    name: str
    passed: bool
    value: float
    limit: float
    detail: str
    low: float | None = None
    high: float | None = None
    people: int = 0
    pairs: int = 0
    undecided: bool = False


class GateOutcome(StrEnum):
    """What the gate decided.

    Attributes:
        NOT_ENOUGH_EVIDENCE: No figure is worse than its limit allows, but too few people or pairs
            were measured to show that the candidate is better.
    """

    PASSED = "passed"
    FAILED = "failed"
    NOT_ENOUGH_EVIDENCE = "not enough evidence"


@dataclass(frozen=True)
class GateVerdict:
    """All checks of a candidate; it passes if every check does.

    Attributes:
        missing: What is missing, for a person, if there is not enough evidence; else empty.
        target_fmr: The target false-match rate that it was judged at; None for none.
    """

    checks: tuple[GateCheck, ...]
    missing: str = ""
    target_fmr: float | None = None

    @property
    def passed(self) -> bool:
        return self.outcome is GateOutcome.PASSED

    @property
    def outcome(self) -> GateOutcome:
        refused = [check for check in self.checks if not check.passed]
        if self.checks and not refused:
            return GateOutcome.PASSED
        if refused and all(check.undecided for check in refused):
            return GateOutcome.NOT_ENOUGH_EVIDENCE
        return GateOutcome.FAILED


@dataclass(frozen=True, kw_only=True)
class CandidateFigures:
    """Figures of a candidate on people and faces that it was not trained on.

    Error rates are the mean of FNMR and FMR, 0..1. Each version is measured at a threshold
    calibrated on the same validation people, who are not those measured on. Field names are the
    keys of the metrics in the manifest.

    Attributes:
        people: Held-out people with a genuine pair.
        genuine_pairs: Genuine pairs of these people.
        parent_error: Error of the parent on held-out pairs.
        child_error: Error of the candidate on the same pairs.
        parent_separation: Area under the parent's ROC curve on held-out pairs.
        child_separation: Area under the candidate's ROC curve on the same pairs.
        gain_low: Lower end of the one-sided 95 % bootstrap interval, over people, of the gain
            in the area under the ROC curve.
        mixed_error: Error on pairs of a candidate's embedding and a stored one of the parent,
            at the candidate's threshold.
        reference_parent_error: Error of the parent on reference faces, at its best threshold.
        reference_child_error: Error of the candidate there, at its best threshold.
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


def decide(figures: CandidateFigures, *, self_check: bool) -> GateVerdict:
    """Compare each figure with its limit; NaN fails.

    Args:
        figures: The measured figures.
        self_check: Whether the exported version, loaded again, reproduces its golden
            embeddings.
    """
    return GateVerdict(
        (
            *_held_out_checks(figures),
            _reference_check(figures),
            _compatibility_check(figures),
            *_magnitude_checks(figures),
            _self_check(self_check),
        )
    )


def is_compatible(figures: CandidateFigures) -> bool:
    """Tell whether embeddings stored by the parent can be compared with the candidate's."""
    return _compatibility_check(figures).passed


def within_compatibility_limit(*, mixed_error: float, stored_error: float) -> bool:
    """Tell whether errors between new and stored embeddings are within the limit.

    Args:
        mixed_error: Error on pairs of a new and a stored embedding.
        stored_error: Error on pairs of two stored embeddings.
    """
    return mixed_error - stored_error <= MAX_COMPATIBILITY_LOSS


def _at_least(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value >= limit, value, limit, detail)


def _at_most(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value <= limit, value, limit, detail)


def _held_out_checks(figures: CandidateFigures) -> tuple[GateCheck, ...]:
    gain = GateCheck(
        "heldout_gain",
        figures.gain_low > 0,
        figures.gain_low,
        0.0,
        f"AUC on held-out people {figures.parent_separation:.4f} -> "
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


def _reference_check(figures: CandidateFigures) -> GateCheck:
    old, new = figures.reference_parent_error, figures.reference_child_error
    return _at_most(
        "reference_loss",
        new - old,
        MAX_REFERENCE_LOSS,
        f"errors on reference faces {old:.2%} -> {new:.2%}, each at its best threshold",
    )


def _compatibility_check(figures: CandidateFigures) -> GateCheck:
    return _at_most(
        "compatibility_loss",
        figures.mixed_error - figures.parent_error,
        MAX_COMPATIBILITY_LOSS,
        f"errors between new embeddings and stored ones {figures.mixed_error:.2%}, "
        f"between stored ones {figures.parent_error:.2%}",
    )


def _magnitude_checks(figures: CandidateFigures) -> tuple[GateCheck, ...]:
    ratio = figures.magnitude_ratio
    change = abs(math.log(ratio)) if ratio > 0 else math.nan
    return (
        _at_most(
            "magnitude_change",
            change,
            MAX_MAGNITUDE_CHANGE,
            f"absolute logarithm of the ratio of the magnitudes, which is {ratio:.3f}",
        ),
        _at_least(
            "magnitude_order",
            figures.magnitude_order,
            MIN_MAGNITUDE_ORDER,
            "rank correlation of the magnitudes with the parent's",
        ),
    )


def _self_check(self_check: bool) -> GateCheck:
    return _at_least(
        "self_check",
        float(self_check),
        1.0,
        "the exported version, loaded again, reproduces its golden embeddings",
    )


class _StoredVerdict(BaseModel):
    # Figures of a broken candidate may be NaN, which JSON has no number for.
    model_config = ConfigDict(ser_json_inf_nan="strings")

    verdict: GateVerdict


def verdict_to_json(verdict: GateVerdict | None) -> str | None:
    """Encode a verdict as a JSON document."""
    return None if verdict is None else _StoredVerdict(verdict=verdict).model_dump_json()


def verdict_from_json(stored: Any) -> GateVerdict | None:
    """Decode what `verdict_to_json` wrote, as psycopg returns it from a jsonb column.

    Raises:
        pydantic.ValidationError: If it is anything else.
    """
    return None if stored is None else _StoredVerdict.model_validate(stored).verdict
