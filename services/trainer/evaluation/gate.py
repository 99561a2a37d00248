"""Promotion gate: decides from measured figures whether a candidate may serve."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from services.trainer.data.labels import MIN_GENUINE_PAIRS, MIN_PEOPLE, VALIDATION_SHARE
from services.trainer.evaluation.candidate_figures import (
    CandidateFigures,
    Change,
    FalseMatches,
    GainWithinChance,
    JudgedPoint,
)
from shared.model.operating_curve import HIGHEST_TARGET

# Differences of error rates that users of the old version would notice.
MAX_REFERENCE_LOSS = 0.01
MAX_COMPATIBILITY_LOSS = 0.01
MAX_MAGNITUDE_CHANGE = 0.2
MIN_MAGNITUDE_ORDER = 0.7
# A gain of AUC that users would notice.
_NOTICED_GAIN = 0.02


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


def decide(
    figures: CandidateFigures,
    *,
    self_check: bool,
    further: Sequence[GateCheck] = (),
    within_chance: GainWithinChance | None = None,
) -> GateVerdict:
    """Compare each figure with its limit; NaN fails.

    Args:
        figures: The measured figures.
        self_check: Whether the exported version, loaded again, reproduces its golden
            embeddings.
        further: Checks of other figures.
        within_chance: The gain of the training if the candidate is its parent all the same.
    """
    if within_chance is None:
        gains = _held_out_checks(figures)
    else:
        gains = (_validation_check(within_chance),)
    return conclude(
        (
            *_evidence_checks(figures.separation),
            *gains,
            *_false_match_checks(figures),
            _reference_check(figures),
            *_compatibility_checks(figures),
            *_magnitude_checks(figures),
            self_check_passed(self_check),
            *further,
        ),
        figures.point.target_fmr if figures.point else None,
    )


def conclude(checks: tuple[GateCheck, ...], target_fmr: float | None) -> GateVerdict:
    """Make the verdict of some checks, and say what is missing where the evidence is too little."""
    verdict = GateVerdict(checks, target_fmr=target_fmr)
    if verdict.outcome is not GateOutcome.NOT_ENOUGH_EVIDENCE:
        return verdict
    return replace(
        verdict, missing="; ".join(missing_evidence(each) for each in checks if each.undecided)
    )


def is_compatible(figures: CandidateFigures) -> bool:
    """Tell whether embeddings stored by the parent can be compared with the candidate's."""
    return all(check.passed for check in _compatibility_checks(figures))


def within_compatibility_limit(*, mixed_error: float, stored_error: float) -> bool:
    """Tell whether errors between new and stored embeddings are within the limit.

    Args:
        mixed_error: Error on pairs of a new and a stored embedding.
        stored_error: Error on pairs of two stored embeddings.
    """
    return mixed_error - stored_error <= MAX_COMPATIBILITY_LOSS


def missing_evidence(check: GateCheck) -> str:
    """Say how much more evidence would decide a check, which is undecided.

    The standard error falls with the square root of the people.
    """
    match check.name:
        case "heldout_people":
            return f"{check.limit - check.value:.0f} more people with a genuine pair to judge on"
        case "heldout_pairs":
            return f"{check.limit - check.value:.0f} more genuine pairs to judge on"
        case "validation_gain":
            gain = max(check.value, _NOTICED_GAIN)
            labelled = math.ceil(_more_people(check, gain) / VALIDATION_SHARE)
            return (
                f"a training on about {labelled:,} more people with a genuine pair would show a "
                f"gain of {gain:.2g} of the AUC"
            )
    distance = check.value - check.limit
    if distance == 0:
        return "more people, for a false-match rate that their impostor pairs resolve"
    more = _more_people(check, distance)
    if check.name == "heldout_gain":
        return (
            f"{more:,} more people with a genuine pair would show a gain of "
            f"{100 * check.value:.2g} points"
        )
    limit = f"{100 * check.limit:g} points"
    return f"{more:,} more people would show whether {check.name} is above {limit}"


def _more_people(check: GateCheck, distance: float) -> int:
    """Return how many more people would make the interval narrower than a distance."""
    width = check.value - (check.value if check.low is None else check.low)
    return max(1, math.ceil(round(check.people * ((width / distance) ** 2 - 1), 6)))


def _at_least(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value >= limit, value, limit, detail)


def _at_most(name: str, value: float, limit: float, detail: str) -> GateCheck:
    return GateCheck(name, value <= limit, value, limit, detail)


def _evidence_checks(measured: Change) -> tuple[GateCheck, ...]:
    return (
        GateCheck(
            "heldout_people",
            measured.people >= MIN_PEOPLE,
            measured.people,
            MIN_PEOPLE,
            "held-out people with a genuine pair",
            people=measured.people,
            pairs=measured.pairs,
            undecided=measured.people < MIN_PEOPLE,
        ),
        GateCheck(
            "heldout_pairs",
            measured.pairs >= MIN_GENUINE_PAIRS,
            measured.pairs,
            MIN_GENUINE_PAIRS,
            "genuine pairs of held-out people",
            people=measured.people,
            pairs=measured.pairs,
            undecided=measured.pairs < MIN_GENUINE_PAIRS,
        ),
    )


def _held_out_checks(figures: CandidateFigures) -> tuple[GateCheck, ...]:
    old, new = figures.separation.before, figures.separation.after
    if figures.point and figures.fnmr:
        fnmr = figures.fnmr
        gain = _reversed(fnmr)
        measured = (
            f"FNMR on held-out people at FMR {figures.point.kept_fmr:g} {fnmr.before:.2%} -> "
            f"{fnmr.after:.2%} (AUC {old:.4f} -> {new:.4f})"
        )
        return (_gain_check(gain, measured, resolved=figures.point.kept_fmr <= HIGHEST_TARGET),)
    errors = figures.errors
    return (
        _gain_check(figures.separation, f"AUC on held-out people {old:.4f} -> {new:.4f}"),
        _loss_check(
            "heldout_errors",
            errors,
            0.0,
            f"errors on held-out people {errors.before:.2%} -> {errors.after:.2%}, at thresholds "
            "calibrated on other people",
        ),
    )


def _validation_check(gain: GainWithinChance) -> GateCheck:
    return GateCheck(
        "validation_gain",
        False,
        gain.gain,
        0.0,
        f"the candidate is its parent: the training's gain of AUC of {gain.gain:.4f} ± "
        f"{gain.noise:.4f} on {gain.people} validation people is within chance",
        gain.low,
        gain.high,
        gain.people,
        undecided=True,
    )


def _gain_check(gain: Change, measured: str, *, resolved: bool = True) -> GateCheck:
    low = math.nan if gain.low is None else gain.low
    passed = low > 0
    lead = "no gain: " if gain.rise == 0 and resolved else ""
    return GateCheck(
        "heldout_gain",
        passed,
        gain.rise,
        0.0,
        f"{lead}{measured}; the gain must be above 0 with 95 % confidence over people",
        gain.low,
        gain.high,
        gain.people,
        gain.pairs,
        undecided=not passed and (gain.rise > 0 or not resolved),
    )


def _false_match_checks(figures: CandidateFigures) -> tuple[GateCheck, ...]:
    return (
        _false_match_check(
            "heldout_fmr", "held-out people", figures.heldout_matches, figures.point
        ),
        _false_match_check(
            "reference_fmr", "reference faces", figures.reference_matches, figures.point
        ),
    )


def _false_match_check(
    name: str, measured_on: str, matches: FalseMatches, point: JudgedPoint | None
) -> GateCheck:
    rate = matches.child
    measured = f"FMR on {measured_on} at the served threshold"
    if point is None:
        passed = matches.rise_low <= 0
        advice = "" if passed else "; set an operating point to compare both at one FMR"
        return GateCheck(
            name,
            passed,
            rate.value - matches.parent,
            0.0,
            f"{measured} {matches.parent:.3%} -> {rate.value:.3%}; the lower end of the interval "
            f"of its rise must not be above 0{advice}",
            matches.rise_low,
            matches.rise_high,
            matches.people,
            matches.pairs,
        )
    return GateCheck(
        name,
        rate.low <= point.served_fmr,
        rate.value,
        point.served_fmr,
        f"{measured} is {rate.value:.3%} and was {matches.parent:.3%}; the lower end of its "
        f"interval must not be above {point.served_fmr:g}",
        rate.low,
        rate.high,
        matches.people,
        matches.pairs,
    )


def _reference_check(figures: CandidateFigures) -> GateCheck:
    change, point = figures.reference, figures.point
    measured = (
        f"FNMR on reference faces at FMR {point.kept_fmr:g}"
        if point
        else "errors on reference faces"
    )
    at = "" if point else ", at thresholds calibrated on them"
    detail = f"{measured} {change.before:.2%} -> {change.after:.2%}{at}"
    return _loss_check("reference_loss", change, MAX_REFERENCE_LOSS, detail)


def _compatibility_checks(figures: CandidateFigures) -> tuple[GateCheck, ...]:
    change, point = figures.compatibility, figures.point
    measured = f"FNMR at FMR {point.kept_fmr:g}" if point else "errors"
    loss = _loss_check(
        "compatibility_loss",
        change,
        MAX_COMPATIBILITY_LOSS,
        f"{measured} between new embeddings and stored ones {change.after:.2%}, between stored "
        f"ones {change.before:.2%}",
    )
    if point is None:
        return (loss,)
    mixed = figures.mixed_matches
    return (
        loss,
        _false_match_check("compatibility_fmr", "new and stored embeddings", mixed, point),
    )


def _loss_check(name: str, change: Change, limit: float, detail: str) -> GateCheck:
    """Check a loss; it is undecided where the interval does not show that it is above the limit."""
    passed = change.rise <= limit
    low = math.inf if change.low is None else change.low
    return GateCheck(
        name,
        passed,
        change.rise,
        limit,
        f"{detail}; a loss of {100 * limit:g} points is allowed",
        change.low,
        change.high,
        change.people,
        change.pairs,
        undecided=change.rise > limit and low <= limit,
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


def self_check_passed(self_check: bool) -> GateCheck:
    """Make the check of the exported version's golden embeddings."""
    return _at_least(
        "self_check",
        float(self_check),
        1.0,
        "the exported version, loaded again, reproduces its golden embeddings",
    )


def _reversed(change: Change) -> Change:
    """Return the fall of a figure instead of its rise."""
    low, high = (None if end is None else -end for end in (change.high, change.low))
    return replace(change, before=change.after, after=change.before, low=low, high=high)


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
