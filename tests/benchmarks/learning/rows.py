"""The learning benchmark's rows: what each measures, and where the finished ones are kept."""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from shared.files import write_atomically

WRONG_SHARE = 0.2


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        people: "rendered" or "real".
        recipe: "parent", "seed", "hadsell" or "ours".
        wrong_labels: Whether one label in five is wrong.
        seed: Of the division of people, the pairs, and the training.
    """

    people: str
    recipe: str
    wrong_labels: bool = False
    seed: int = 0

    def __str__(self) -> str:
        labels = ", one label in five wrong" if self.wrong_labels else ""
        return f"{self.people} people, {self.recipe}{labels}, seed {self.seed}"


# What says most comes first, so that an interrupted run is worth something.
ROWS = (
    Row("real", "parent"),
    Row("real", "ours"),
    Row("real", "seed"),
    Row("rendered", "parent"),
    Row("rendered", "ours"),
    Row("real", "hadsell"),
    Row("real", "ours", wrong_labels=True),
    Row("rendered", "ours", wrong_labels=True),
    Row("real", "parent", seed=1),
    Row("real", "ours", seed=1),
    Row("real", "parent", seed=2),
    Row("real", "ours", seed=2),
    Row("real", "ours", wrong_labels=True, seed=1),
    Row("real", "ours", wrong_labels=True, seed=2),
    Row("real", "seed", wrong_labels=True),
    Row("real", "hadsell", wrong_labels=True),
)


class KeptRows:
    """Finished rows in a file, so that an interrupted benchmark goes on where it was.

    Args:
        file: Where.
        material: Names the faces and the checkpoint; rows of others are kept apart, and so
            are trained rows of another state of the training's sources.
    """

    def __init__(self, file: Path, material: str) -> None:
        self._file = file
        self._material = material
        self._kept: dict[str, dict[str, Any]] = (
            json.loads(file.read_text()) if file.exists() else {}
        )

    def get(self, row: Row | str) -> dict[str, Any] | None:
        return self._kept.get(self._key(row))

    def put(self, row: Row | str, measured: dict[str, Any]) -> None:
        self._kept[self._key(row)] = measured
        write_atomically(self._file, json.dumps(self._kept, indent=1))

    def _key(self, row: Row | str) -> str:
        recipe = row.recipe if isinstance(row, Row) else row
        match recipe:
            case "parent":
                sources = ""
            case "seed":
                sources = _digest_sources("tests.benchmarks.learning.seed_loop")
            case _:
                sources = _digest_sources("services.trainer")
        name = json.dumps(asdict(row)) if isinstance(row, Row) else row
        measures = _digest_sources("tests.benchmarks.learning.figures")
        return f"{name} {self._material} {sources} {measures}"


def _digest_sources(package: str) -> str:
    """Digest of the modules in a package that this process has loaded."""
    files = {
        module.__file__
        for name, module in sys.modules.items()
        if f"{name}.".startswith(f"{package}.") and module.__file__
    }
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:12]
