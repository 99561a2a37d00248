"""Formatting of evaluation figures for people: labels, percentages, intervals."""

from collections.abc import Iterator
from dataclasses import dataclass

from shared.evaluation.results import Comparison, Evaluation, Interval

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


def percent(share: float) -> str:
    """Format a fraction as a percentage."""
    return f"{100 * share:.2f} %"


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
