"""Summary of the selection benchmark: learning curves, and the comparison with random."""

from collections.abc import Mapping
from statistics import mean, stdev
from typing import Any

from tests.benchmarks.selection.rows import SelectionRow

_RANDOM_LABELS = 1000
_MOST_LABELS = 600

Finished = Mapping[SelectionRow, Mapping[str, Any]]


def summarise(finished: Finished) -> dict[str, Any]:
    """Give the accuracy by kind of rows, strategy and labels, and each kind's comparison."""
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
    return {"curves": curves, "bars": {kind: _compare_with_random(curves[kind]) for kind in curves}}


def _compare_with_random(curves: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, Any]:
    """Lead of each strategy with 600 labels or fewer over random selection with 1,000.

    Only seeds with both are used. `spread` is the standard deviation of the lead over the seeds.
    """
    random = curves.get("random", {}).get(str(_RANDOM_LABELS))
    if random is None:
        return {}
    random_accuracy = dict(zip(random["seeds"], random["accuracy"], strict=True))
    compared: dict[str, Any] = {}
    for strategy, curve in curves.items():
        for labels, point in sorted(curve.items(), key=lambda item: int(item[0])):
            leads = [
                accuracy - random_accuracy[seed]
                for seed, accuracy in zip(point["seeds"], point["accuracy"], strict=True)
                if seed in random_accuracy
            ]
            if leads and 0 < int(labels) <= _MOST_LABELS:
                compared[f"{strategy}, {labels}"] = {
                    "ahead": mean(leads),
                    "spread": stdev(leads) if len(leads) > 1 else None,
                    "seeds_ahead": sum(lead >= 0 for lead in leads),
                    "seeds": len(leads),
                    "held": mean(leads) >= 0,
                }
    return compared
