"""Rows of the learning benchmark, and their stored results."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.results import ResultFile, digest_modules

WRONG_SHARE = 0.2


@dataclass(frozen=True)
class LearningRow:
    """One measurement.

    Attributes:
        people: "rendered" or "real".
        recipe: "parent", "ours", "seed", or a baseline of `baselines`.
        wrong_labels: Whether one label in five is wrong.
        seed: Seed of the split of the people, of the pairs and of the training.
    """

    people: str
    recipe: str
    wrong_labels: bool = False
    seed: int = 0

    def __str__(self) -> str:
        labels = ", one label in five wrong" if self.wrong_labels else ""
        return f"{self.people} people, {self.recipe}{labels}, seed {self.seed}"


_BASELINES = ("tests.benchmarks.learning.baselines",)

# The most informative rows come first, so that an interrupted run is still useful.
ROWS = (
    *(LearningRow("real", "parent", seed=seed) for seed in range(3)),
    *(LearningRow("real", "ours", seed=seed) for seed in range(3)),
    LearningRow("real", "ours", wrong_labels=True),
    LearningRow("real", "lora"),
    LearningRow("real", "bct"),
    LearningRow("real", "ours", wrong_labels=True, seed=1),
    LearningRow("rendered", "parent"),
    LearningRow("rendered", "ours"),
    LearningRow("real", "ours", wrong_labels=True, seed=2),
    LearningRow("real", "seed"),
    LearningRow("rendered", "ours", wrong_labels=True),
    LearningRow("real", "hadsell"),
    LearningRow("real", "seed", wrong_labels=True),
    LearningRow("real", "hadsell", wrong_labels=True),
)


class LearningResults:
    """Stored results of rows.

    Args:
        file: Where they are stored.
        material: Names of the faces and the checkpoint. Results of other material are not used,
            nor results of trainings with other sources.
    """

    def __init__(self, file: Path, material: str) -> None:
        self._results = ResultFile(file)
        self._material = material

    def get(self, row: LearningRow | str) -> dict[str, Any] | None:
        return self._results.get(self._key(row))

    def put(self, row: LearningRow | str, measured: dict[str, Any]) -> None:
        self._results.put(self._key(row), measured)

    def _key(self, row: LearningRow | str) -> str:
        recipe = row.recipe if isinstance(row, LearningRow) else row
        match recipe:
            case "parent":
                sources = ""
            case "seed":
                sources = digest_modules("tests.benchmarks.learning.seed_loop")
            case _:
                sources = digest_modules(
                    "services.trainer.training", "services.trainer.data", *_BASELINES
                )
        name = json.dumps(asdict(row)) if isinstance(row, LearningRow) else row
        measures = digest_modules("tests.benchmarks.learning.figures")
        return f"{name} {self._material} {sources} {measures}"
