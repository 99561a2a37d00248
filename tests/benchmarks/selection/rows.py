"""Rows of the selection benchmark, and their stored results."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tests.benchmarks.results import ResultFile, digest_modules

SEEDS: Final = (0, 1, 2)
_COUNTS: Final = (1000, 600, 400, 200, 100)
_STRATEGIES: Final = ("random", "default", "uncertainty", "hard", "uniform")
_RETRAINED: Final = ("random", "default", "uncertainty", "hard", "disagreement")
# A training takes minutes; the target compares the first two.
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
    """One choice of pairs, and the training on it.

    Attributes:
        learner: "linear" or "training" (the product's).
        people: "rendered" or "real".
        strategy: "random", "uniform", "default", or a strategy of the service; "parent" measures
            the parent, without labels.
        labels: Number of labels.
        seed: Seed of the split of the people, the draws and the training.
        retrained: Whether a new version embeds the pool after every 200 labels.
    """

    learner: str
    people: str
    strategy: str
    labels: int
    seed: int
    retrained: bool = False

    @property
    def split(self) -> int:
        """Seed of the split of the people; rendered people have only one split."""
        return 0 if self.people == "rendered" else self.seed

    @property
    def kind(self) -> str:
        """What rows that are compared have in common."""
        return f"{self.learner}, {self.people}" + (", retrained" if self.retrained else "")

    def __str__(self) -> str:
        return f"{self.kind}: {self.labels} labels by {self.strategy}, seed {self.seed}"


def rows(
    learners: Sequence[str], people: Sequence[str], seeds: Sequence[int] = SEEDS
) -> list[SelectionRow]:
    """Give all rows, ordered so that an interrupted run is still useful."""
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


class SelectionResults:
    """Stored results of rows.

    The key of a row has the chosen pairs instead of the code that chose them, so that a change of
    the code that leaves the choice as it is does not measure the row again.

    Args:
        file: Where they are stored.
        material: Names of the faces and the checkpoint. Results of other material are not used,
            nor results of a learner with other sources.
    """

    def __init__(self, file: Path, material: str) -> None:
        self._results = ResultFile(file)
        self._material = material
        self._sources = {
            "linear": digest_modules("tests.benchmarks.selection.linear_learner"),
            "training": digest_modules("services.trainer"),
        }

    def get(self, row: SelectionRow, pairs: NDArray[np.int64]) -> dict[str, Any] | None:
        return self._results.get(self._key(row, pairs))

    def put(self, row: SelectionRow, pairs: NDArray[np.int64], measured: Mapping[str, Any]) -> None:
        self._results.put(self._key(row, pairs), measured)

    def _key(self, row: SelectionRow, pairs: NDArray[np.int64]) -> str:
        chosen = hashlib.sha256(pairs.tobytes()).hexdigest()[:12]
        return f"{json.dumps(asdict(row))} {chosen} {self._material} {self._sources[row.learner]}"
