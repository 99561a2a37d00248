"""Markdown tables of the learning benchmark."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tests.benchmarks.learning.rows import LearningRow

_SPEED = "speed"
_NAMES = {
    "parent": "parent",
    "seed": "the seed's, as written",
    "hadsell": "the seed's, BatchNorm frozen",
    "bct": "backward-compatible training",
    "lora": "LoRA",
    "ours": "ours",
}
_HEAD = (
    "recipe",
    "labels",
    "people splits",
    "accuracy",
    "gain, points",
    "gain at the threshold of fewest errors",
    "TAR@FAR 1e-2",
    "gain",
    "old against new, TAR@FAR 1e-2",
    "threshold",
    "magnitude",
    "gate passed",
)

RowFigures = Mapping[LearningRow | str, Mapping[str, Any]]


def make_table(measured: RowFigures) -> str:
    """Make the tables of the finished rows.

    Args:
        measured: Figures by row, and the speed under "speed".

    Returns:
        A Markdown table for each view of the test people. A gain is against the parent on the
        same people. Figures of several splits are given as mean ± standard deviation.
    """
    parts = []
    for people, view in (("real", "degraded"), ("real", "clean"), ("rendered", "rendered")):
        lines = [
            _line(people, view, recipe, wrong, measured)
            for recipe in _NAMES
            for wrong in (False, True)
        ]
        filled = [line for line in lines if line]
        if filled:
            parts.append(f"### Tested on {people} people, {view}\n\n{markdown(_HEAD, filled)}")
    if _SPEED in measured:
        ours, seed = measured[_SPEED]["ours"], measured[_SPEED]["seed"]
        parts.append(
            "### Speed of a training step\n\n"
            "Distinct labelled images a second, each in four pairs: "
            f"ours {ours:.1f}, the seed's loop {seed:.1f}, ratio {ours / seed:.1f}.\n"
        )
    return "\n".join(parts)


def _line(
    people: str, view: str, recipe: str, wrong: bool, measured: RowFigures
) -> list[str] | None:
    rows = [
        row
        for row in measured
        if isinstance(row, LearningRow)
        and (row.people, row.recipe, row.wrong_labels) == (people, recipe, wrong)
    ]
    if not rows:
        return None
    own = [measured[row][view] for row in rows]
    # Each split is compared with the parent on the same people.
    parents = [
        measured.get(LearningRow(people, "parent", seed=row.seed), {}).get(view) for row in rows
    ]
    accuracy = [figures["accuracy"] for figures in own]
    tar = [figures["tar"] for figures in own]
    line = [
        _NAMES[recipe],
        "-" if recipe == "parent" else "one in five wrong" if wrong else "clean",
        ", ".join(str(row.seed) for row in rows),
        _number(accuracy, 3),
    ]
    fewest = [figures["accuracy_at_fewest"] for figures in own]
    gains = ["-", "-", "-"]
    if recipe != "parent" and all(parents):
        gains = [
            _number(_minus(accuracy, parents, "accuracy", 100), 1, signed=True),
            _number(_minus(fewest, parents, "accuracy_at_fewest", 100), 1, signed=True),
            _number(_minus(tar, parents, "tar", 1), 3, signed=True),
        ]
    return [
        *line,
        *gains[:2],
        _number(tar, 3),
        gains[2],
        *(
            _number([figures[name] for figures in own], digits)
            for name, digits in (("stored_tar", 3), ("threshold", 2), ("magnitude", 1))
        ),
        _gate([measured[row]["gate_passed"] for row in rows if "gate_passed" in measured[row]]),
    ]


def _gate(passed: Sequence[bool]) -> str:
    return f"{sum(passed)} of {len(passed)}" if passed else "-"


def _minus(values: Iterable[float], parents: Iterable[Any], name: str, scale: float) -> list[float]:
    return [scale * (value - parent[name]) for value, parent in zip(values, parents, strict=True)]


def _number(values: Sequence[float], digits: int, signed: bool = False) -> str:
    text = f"{np.mean(values):{'+' if signed else ''}.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"
    return text


def markdown(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Make a Markdown table of a head and its lines."""
    rows = [head, ["---"] * len(head), *lines]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)
