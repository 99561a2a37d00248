"""What the selection benchmark's finished rows say: learning curves, and the bar."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from tests.benchmarks.selection.rows import SelectionRow

_RIVAL = 1000
_BAR = 600

Finished = Mapping[SelectionRow, Mapping[str, Any]]


def summarise(finished: Finished) -> dict[str, Any]:
    """Accuracy over the seeds by kind of rows, strategy and labels, and the bar of each kind."""
    curves: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for row, measured in finished.items():
        curve = curves.setdefault(row.kind, {}).setdefault(row.strategy, {})
        point = curve.setdefault(str(row.labels), {"seeds": [], "accuracy": [], "genuine": []})
        point["seeds"].append(row.seed)
        for figure in ("accuracy", "genuine"):
            point[figure].append(measured[figure])
    for by_strategy in curves.values():
        for curve in by_strategy.values():
            for point in curve.values():
                point["mean"] = mean(point["accuracy"])
    return {"curves": curves, "bars": {kind: _bars(curves[kind]) for kind in curves}}


def _bars(curves: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """How far each strategy with 600 labels or fewer is ahead of random with 1,000.

    On the seeds that have both; `spread` is the standard deviation of the seeds' differences.
    """
    rival = curves.get("random", {}).get(str(_RIVAL))
    if rival is None:
        return {}
    drawn = dict(zip(rival["seeds"], rival["accuracy"], strict=True))
    bars: dict[str, Any] = {}
    for strategy, curve in curves.items():
        for labels, point in sorted(curve.items(), key=lambda one: int(one[0])):
            ahead = [
                accuracy - drawn[seed]
                for seed, accuracy in zip(point["seeds"], point["accuracy"], strict=True)
                if seed in drawn
            ]
            if ahead and 0 < int(labels) <= _BAR:
                bars[f"{strategy}, {labels}"] = {
                    "ahead": mean(ahead),
                    "spread": stdev(ahead) if len(ahead) > 1 else None,
                    "seeds_ahead": sum(one >= 0 for one in ahead),
                    "seeds": len(ahead),
                    "held": mean(ahead) >= 0,
                }
    return bars
