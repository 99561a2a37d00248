"""Formatting of evaluation figures for people: labels, percentages, intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

from shared.evaluation.results import (
    Comparison,
    Evaluation,
    GroupComparison,
    GroupRate,
    Inequity,
    Interval,
)

_NOT_MEASURED = "—"


@dataclass(frozen=True)
class Line:
    """One figure with its interval, or the reason why it was not measured."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class ChangeLine:
    """One figure of two models and its difference."""

    label: str
    old: str
    new: str
    difference: str
    interval: str


@dataclass(frozen=True)
class GroupLine:
    """One error rate of a group, with its interval and what it was measured on."""

    group: str
    rate: str
    value: str
    interval: str
    evidence: str


def headlines(evaluation: Evaluation) -> list[Line]:
    """Return the lines for accuracy, best accuracy, AUC and EER."""
    best = "best accuracy"
    if evaluation.best_threshold is not None:
        best += f", at {evaluation.best_threshold:.3f}"
    labels = {
        "accuracy": f"accuracy at {evaluation.threshold:.3f}",
        "best_accuracy": best,
        "auc": "ROC AUC",
        "eer": "EER",
    }
    missing = "needs genuine and impostor pairs"
    return [_line(evaluation, name, label, missing) for name, label in labels.items()]


def tar_lines(evaluation: Evaluation) -> list[Line]:
    """Return a line for the TAR at each FAR."""
    missing = "needs genuine pairs"
    if evaluation.genuine_pairs:
        missing = f"too few impostor pairs: {evaluation.impostor_pairs}"
    names = [f"tar_at_far.{far}" for far in evaluation.tar_at_far]
    return [_line(evaluation, name, _label(name), missing) for name in names]


def change_lines(old: Evaluation, new: Evaluation, comparison: Comparison) -> Iterator[ChangeLine]:
    """Yield the figures of both models whose difference has an interval."""
    for name, difference in comparison.differences.items():
        before, after = old.figure(name), new.figure(name)
        if before is not None and after is not None:
            yield ChangeLine(
                label=_label(name),
                old=_number(name, before),
                new=_number(name, after),
                difference=_signed(name, difference.value),
                interval=f"{_signed(name, difference.low)} to {_signed(name, difference.high)}",
            )


def group_lines(comparison: GroupComparison) -> list[GroupLine]:
    """Return a line for the FNMR and one for the FMR of each group."""
    return [
        _group_line(group.name, name, rate)
        for name in ("FNMR", "FMR")
        for group in comparison.groups
        for rate in (group.fnmr if name == "FNMR" else group.fmr,)
    ]


def inequity_lines(comparison: GroupComparison) -> list[Line]:
    """Return the ratio of the worst group to the geometric mean for both error rates."""
    return [
        _inequity_line("FNMR", comparison.fnmr_inequity),
        _inequity_line("FMR", comparison.fmr_inequity),
    ]


def percent(share: float) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * share:.2f} %"


def _group_line(group: str, name: str, measured: GroupRate) -> GroupLine:
    evidence = f"{measured.evidence.pairs} pairs of {measured.evidence.people} people"
    if not measured.enough:
        evidence += ", too few to compare"
    rate = measured.rate
    if rate is None:
        return GroupLine(group, name, _NOT_MEASURED, "", evidence)
    interval = f"{_short_percent(rate.low)} to {_short_percent(rate.high)} %"
    return GroupLine(group, name, f"{_short_percent(rate.value)} %", interval, evidence)


def _inequity_line(name: str, found: Inequity | None) -> Line:
    label = f"{name}, worst group over geometric mean"
    if found is None:
        return Line(label, _NOT_MEASURED, "needs errors, and two groups with enough people")
    return Line(label, f"{found.ratio:.2f}", f"{found.worst}, of {found.groups} groups")


def _short_percent(share: float) -> str:
    return f"{100 * share:.3g}"


def _line(evaluation: Evaluation, name: str, label: str, missing: str) -> Line:
    value = evaluation.figure(name)
    if value is None:
        return Line(label, _NOT_MEASURED, missing)
    interval = evaluation.intervals.get(name)
    note = ""
    if interval is not None:
        note = _range(name, interval)
    return Line(label, _number(name, value), note)


def _label(name: str) -> str:
    if name.startswith("tar_at_far."):
        return f"TAR at FAR {100 * float(name.removeprefix('tar_at_far.')):g} %"
    return {"auc": "ROC AUC", "eer": "EER"}.get(name, name.replace("_", " "))


def _number(name: str, value: float) -> str:
    return f"{value:.4f}" if name == "auc" else percent(value)


def _range(name: str, interval: Interval) -> str:
    if name == "auc":
        return f"{interval.low:.4f} to {interval.high:.4f}"
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def _signed(name: str, value: float) -> str:
    return f"{value:+.4f}" if name == "auc" else f"{100 * value:+.2f}"
