"""The selection benchmark's rows: what each measures, and where the finished ones are kept."""

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from services.feedback.selection.arrays import IndexArray
from shared.files import write_atomically

SEEDS: Final = (0, 1, 2)
_COUNTS: Final = (1000, 600, 400, 200, 100)
_STRATEGIES: Final = ("random", "default", "uncertainty", "hard", "uniform")
_RETRAINED: Final = ("random", "default", "uncertainty", "hard", "disagreement")
# Trainings are dear: the bar compares the first two.
_TRAINED: Final = (
    ("random", 1000),
    ("default", 600),
    ("default", 400),
    ("random", 600),
    ("default", 200),
    ("default", 1000),
    ("random", 400),
)


@dataclass(frozen=True)
class SelectionRow:
    """One choice of pairs, and what is learned from it.

    Attributes:
        learner: "linear", of seconds, or "training", the product's.
        people: "rendered" or "real".
        strategy: "random", "uniform", "default", or one of the service's; "parent" learns nothing.
        labels: How many are asked for.
        seed: Of the division of people, the draws, and the training.
        retrained: Whether a new version takes over the pool every 200 labels; the parent
            chooses to the end where not.
    """

    learner: str
    people: str
    strategy: str
    labels: int
    seed: int
    retrained: bool = False

    @property
    def split(self) -> int:
        """Seed of the division of people; rendered ones are always divided alike."""
        return 0 if self.people == "rendered" else self.seed

    @property
    def kind(self) -> str:
        """What has to be alike in rows that are compared."""
        return f"{self.learner}, {self.people}" + (", retrained" if self.retrained else "")

    def __str__(self) -> str:
        return f"{self.kind}: {self.labels} labels by {self.strategy}, seed {self.seed}"


def rows(
    learners: Sequence[str], people: Sequence[str], seeds: Sequence[int] = SEEDS
) -> list[SelectionRow]:
    """All rows, so ordered that an interrupted run is worth something."""
    return [
        row
        for learner in learners
        for kind in people
        for row in (_linear_rows if learner == "linear" else _trained_rows)(kind, seeds)
    ]


def _linear_rows(people: str, seeds: Sequence[int]) -> list[SelectionRow]:
    return [SelectionRow("linear", people, "parent", 0, seed) for seed in seeds] + [
        SelectionRow("linear", people, strategy, labels, seed, retrained)
        for retrained, strategies in ((False, _STRATEGIES), (True, _RETRAINED))
        for seed in seeds
        for strategy in strategies
        for labels in _COUNTS
    ]


def _trained_rows(people: str, seeds: Sequence[int]) -> list[SelectionRow]:
    return [
        SelectionRow("training", people, strategy, labels, seed)
        for part in (_TRAINED[:2], _TRAINED[2:3], _TRAINED[3:])
        for seed in seeds
        for strategy, labels in part
    ]


class KeptSelections:
    """Finished rows in a file, so that an interrupted benchmark goes on where it was.

    A row is kept under the pairs that were chosen and not under the code that chose them: what
    changes no choice measures nothing anew.

    Args:
        file: Where.
        material: Names the faces and the checkpoint; rows of others are kept apart, and so
            are those of another state of the learner's sources.
    """

    def __init__(self, file: Path, material: str) -> None:
        self._file = file
        self._material = material
        self._sources = {
            "linear": _digest_sources("tests.benchmarks.selection.linear_learner"),
            "training": _digest_sources("services.trainer"),
        }
        self._kept = self._read()

    def get(self, row: SelectionRow, pairs: IndexArray) -> dict[str, Any] | None:
        return self._kept.get(self._key(row, pairs))

    def put(self, row: SelectionRow, pairs: IndexArray, measured: Mapping[str, Any]) -> None:
        # Another run may have finished rows meanwhile.
        self._kept = self._read() | {self._key(row, pairs): dict(measured)}
        write_atomically(self._file, json.dumps(self._kept, indent=1))

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._file.exists():
            return {}
        kept: dict[str, dict[str, Any]] = json.loads(self._file.read_text())
        return kept

    def _key(self, row: SelectionRow, pairs: IndexArray) -> str:
        chosen = hashlib.sha256(pairs.tobytes()).hexdigest()[:12]
        return f"{json.dumps(asdict(row))} {chosen} {self._material} {self._sources[row.learner]}"


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
