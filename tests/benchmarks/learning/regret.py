"""Regret: candidate minus parent where there is little or nothing to learn (`make bench-regret`).

The pictures are clean, so the parent is good at them already. Finished rows are stored in
``regret.rows.json``. `FACES=DIR` names the real faces.
"""

import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.training.features import compute_features
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.cpu import cpu_threads
from tests.benchmarks.learning.benchmark import MATERIAL_FACES
from tests.benchmarks.learning.faces import Split, draw_pairs, real_people, rendered_people
from tests.benchmarks.learning.figures import FAR, figures
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.learning.rows import LearningResults
from tests.benchmarks.learning.table import markdown
from tests.benchmarks.progress import log

_SEEDS = 5


@dataclass(frozen=True)
class RegretRow:
    """Trainings of some kind.

    Attributes:
        people: "real" or "rendered".
        reference: Whether there is a reference folder, of clean faces of other real people.
        labels: Number of labelled pairs.
    """

    people: str
    reference: bool
    labels: int

    @property
    def view(self) -> str:
        return "clean" if self.people == "real" else "rendered"


# Cheap rows first, and all rows with the first seed before the next one.
ROWS = tuple(
    RegretRow(people, reference, labels)
    for labels in (100, 300)
    for people, reference in (("real", True), ("real", False), ("rendered", True))
)


def run(out: Path) -> dict[str, Any]:
    """Measure the rows without a stored result, and print the table."""
    torch.set_num_threads(cpu_threads())
    faces = Path(os.environ.get("FACES") or MATERIAL_FACES)
    out.mkdir(parents=True, exist_ok=True)
    results = LearningResults(out / "regret.rows.json", faces.name if faces.is_dir() else "")
    # Without real faces there are no clean reference faces either.
    rows = ROWS if faces.is_dir() else ()
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(faces, Path(scratch))
        for seed in range(_SEEDS):
            for row in rows:
                key = f"{row}, seed {seed}"
                if results.get(key) is None:
                    results.put(key, bench.measure(row, seed))
                log(f"{key}: {results.get(key)}")
    found = {
        row: [one for seed in range(_SEEDS) if (one := results.get(f"{row}, seed {seed}"))]
        for row in rows
    }
    table = make_table(found)
    sys.stdout.write(table)
    return {
        "faces": faces.name,
        "rows": [asdict(row) | {"seeds": measured} for row, measured in found.items()],
        "table": table,
    }


class _Bench:
    def __init__(self, faces: Path, scratch: Path) -> None:
        self._faces = faces
        self._scratch = scratch
        self._parent = make_parent(DEFAULT_CHECKPOINT, scratch / "parent")
        self._order = read_manifest(self._parent).channel_order

    @cache  # noqa: B019 - one object a process
    def _split(self, people: str, seed: int) -> Split:
        return rendered_people() if people == "rendered" else real_people(self._faces, seed)

    def measure(self, row: RegretRow, seed: int) -> dict[str, Any]:
        """Train once, and measure candidate and parent on people never seen."""
        split = self._split(row.people, seed)
        people, reference = split["training"], None
        if row.reference:
            others = self._split("real", seed)["calibration"]
            reference = ReferenceFaces(others.views["clean"], others.persons)
        outcome = train(
            self._parent,
            people.views[row.view],
            draw_pairs(people.persons, row.labels, seed),
            reference,
            workdir=Path(tempfile.mkdtemp(dir=self._scratch)),
            seed=seed,
            report=partial(_log_under, f"{row}, seed {seed}"),
            target_fmr=FAR,
        )
        parent, candidate = (
            1 - self._tar(folder, split, row.view) for folder in (self._parent, outcome.folder)
        )
        return {
            "parent_fnmr": parent,
            "candidate_fnmr": candidate,
            "parent_share": outcome.manifest.metrics["parent_share"],
            "gate_passed": outcome.gate.passed,
        }

    def _tar(self, folder: Path, split: Split, view: str) -> float:
        network = load_checkpoint(folder / WEIGHTS_FILE).network
        embed = partial(compute_features, network, self._order)
        calibration, test = split["calibration"], split["test"]
        embedded = embed(test.views[view])
        return figures(
            (embed(calibration.views[view]), calibration.persons),
            (embedded, test.persons),
            embedded,
        ).tar


def _log_under(title: str, line: str) -> None:
    log(f"{title}: {line}")


def make_table(found: Mapping[RegretRow, list[dict[str, Any]]]) -> str:
    """Make a Markdown table of the differences at the operating point."""
    head = (
        "people",
        "reference folder",
        "labels",
        "seeds",
        "FNMR of the parent",
        "candidate minus parent, points",
        "worst",
        "shares of the parent",
        "gate passed",
    )
    lines = []
    for row, measured in found.items():
        if not measured:
            continue
        points = [100 * (one["candidate_fnmr"] - one["parent_fnmr"]) for one in measured]
        lines.append(
            (
                f"{row.people}, {row.view}" if row.people == "real" else row.people,
                "yes" if row.reference else "no",
                str(row.labels),
                str(len(measured)),
                f"{np.mean([one['parent_fnmr'] for one in measured]):.3f}",
                f"{np.mean(points):+.1f} ± {np.std(points):.1f}",
                f"{max(points):+.1f}",
                ", ".join(f"{one['parent_share']:g}" for one in measured),
                f"{sum(one['gate_passed'] for one in measured)} of {len(measured)}",
            )
        )
    return markdown(head, lines)
