"""The selection benchmark's rows: what each measures, and where the finished ones are kept."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SEEDS = (0, 1, 2)
# What says most comes first: the bar compares the first two.
_CURVE = (
    ("random", 1000),
    ("default", 600),
    ("default", 400),
    ("random", 600),
    ("default", 1000),
    ("random", 400),
    ("default", 200),
    ("random", 200),
    ("uncertainty", 600),
    ("hard", 600),
    ("uniform", 1000),
)


@dataclass(frozen=True)
class SelectionRow:
    """One training.

    Attributes:
        learner: "linear", of seconds, or "training", the product's.
        people: "rendered" or "real".
        strategy: "random", "uniform", "default", or one of the service's.
        labels: How many are asked for.
        seed: Of the division of people, the draws, and the training.
    """

    learner: str
    people: str
    strategy: str
    labels: int
    seed: int

    @property
    def split(self) -> int:
        """Seed of the division of people; rendered ones are always divided alike."""
        return 0 if self.people == "rendered" else self.seed

    def __str__(self) -> str:
        return (
            f"{self.learner}: {self.people}, {self.labels} labels by {self.strategy}, "
            f"seed {self.seed}"
        )


def rows(learners: Sequence[str], people: Sequence[str]) -> list[SelectionRow]:
    """All rows, so ordered that an interrupted run is worth something."""
    return [
        SelectionRow(learner, kind, strategy, labels, seed)
        for learner in learners
        for kind in people
        for part in (_CURVE[:3], _CURVE[3:])
        for seed in SEEDS
        for strategy, labels in part
    ]


class KeptSelections:
    """Finished rows in a file, so that an interrupted benchmark goes on where it was.

    Args:
        file: Where.
        material: Names the faces and the checkpoint; rows of others are kept apart, and so
            are those of another state of the training's and the selection's sources.
    """

    def __init__(self, file: Path, material: str) -> None:
        self._file = file
        self._suffix = f"{material} {_digest_sources('services.trainer', 'services.feedback')}"
        self._kept: dict[str, dict[str, Any]] = (
            json.loads(file.read_text()) if file.exists() else {}
        )

    def get(self, row: SelectionRow) -> dict[str, Any] | None:
        return self._kept.get(self._key(row))

    def put(self, row: SelectionRow, measured: Mapping[str, Any]) -> None:
        self._kept[self._key(row)] = dict(measured)
        partial = self._file.with_suffix(".partial")
        partial.write_text(json.dumps(self._kept, indent=1))
        partial.replace(self._file)

    def _key(self, row: SelectionRow) -> str:
        return f"{json.dumps(asdict(row))} {self._suffix}"


def _digest_sources(*packages: str) -> str:
    """Digest of the modules in packages that this process has loaded, as they are now."""
    files = {
        file
        for name, module in list(sys.modules.items())
        if (file := getattr(module, "__file__", None))
        and any(f"{name}.".startswith(f"{package}.") for package in packages)
    }
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:12]


Finished = Mapping[SelectionRow, Mapping[str, Any]]


def summarise(finished: Finished) -> dict[str, Any]:
    """Mean accuracy over the seeds measured by learner, people, strategy and labels; the bars.

    A bar is held where the default with 600 labels or fewer reaches random with 1,000, on the
    mean of the seeds that have both.
    """
    curves: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    for row, measured in finished.items():
        kind = f"{row.learner}, {row.people}"
        curve = curves.setdefault(kind, {}).setdefault(row.strategy, {})
        point = curve.setdefault(str(row.labels), {"accuracy": [], "seeds": []})
        point["accuracy"].append(measured["accuracy"])
        point["seeds"].append(row.seed)
    for by_strategy in curves.values():
        for curve in by_strategy.values():
            for point in curve.values():
                point["mean"] = sum(point["accuracy"]) / len(point["accuracy"])
    kinds = sorted({(row.learner, row.people) for row in finished})
    bars = {f"{learner}, {people}": _bar(finished, learner, people) for learner, people in kinds}
    return {"curves": curves, "bars": bars}


def _bar(finished: Finished, learner: str, people: str) -> dict[str, Any] | None:
    """The fewest labels that hold the bar; how far 600 miss it where none do."""
    best: dict[str, Any] | None = None
    for labels in (600, 400, 200):
        couples = [
            (finished[ours]["accuracy"], finished[drawn]["accuracy"])
            for seed in SEEDS
            if (ours := SelectionRow(learner, people, "default", labels, seed)) in finished
            and (drawn := SelectionRow(learner, people, "random", 1000, seed)) in finished
        ]
        if couples:
            ahead = sum(one - other for one, other in couples) / len(couples)
            point = {"labels": labels, "ahead": ahead, "seeds": len(couples), "held": ahead >= 0}
            if best is None or point["held"]:
                best = point
    return best
