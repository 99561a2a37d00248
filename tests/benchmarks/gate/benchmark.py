"""What the gate says to trainings that gain and to others that do not (`make bench-gate`).

Ten seeds of each kind of feedback on rendered people, each judged at a target false-match rate and
measured on hundreds of people whom nobody trained on. Finished rows are stored in
``gate.rows.json``; `ROWS=3` measures at most three more and ends.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from cli.rendering.renderer import render_person
from services.trainer.data.reference_faces import default_reference
from services.trainer.data.splits import reference_pairs
from services.trainer.evaluation.candidate_metrics import score_pairs
from services.trainer.training.features import compute_features
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.cpu import cpu_threads
from tests.benchmarks.learning.faces import Crops, PairRows, draw_pairs
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.progress import log
from tests.benchmarks.results import ResultFile, digest_modules

TARGET: Final = 1e-2
_SEEDS: Final = 10
_IMAGES: Final = 4
_PEOPLE: Final = 400
_UNSEEN: Final = 300
_EPOCHS: Final = 4
_FIRST_UNSEEN: Final = 2_000_000


@dataclass(frozen=True)
class GateRow:
    """One training.

    Attributes:
        feedback: "gain" for right labels, "null" for labels that say nothing, because each person
            of theirs is a few images drawn at random, "few" for right labels on a tenth of the
            people.
        seed: Seed of the people, the pairs and the training.
    """

    feedback: str
    seed: int

    def __str__(self) -> str:
        return f"{self.feedback}, seed {self.seed}"

    @property
    def people(self) -> int:
        return _PEOPLE // 10 if self.feedback == "few" else _PEOPLE

    def pairs(self, persons: np.ndarray) -> PairRows:
        """Draw two and a half pairs a person."""
        if self.feedback == "null":
            persons = np.random.default_rng(self.seed).permutation(persons)
        return draw_pairs(persons, self.people * 5 // 2, self.seed)


ROWS: Final = [
    GateRow(feedback, seed) for seed in range(_SEEDS) for feedback in ("gain", "few", "null")
]


def run(out: Path) -> dict[str, Any]:
    """Measure the rows without a stored result.

    Args:
        out: Folder for the stored rows.

    Returns:
        All rows, and how often each outcome came.
    """
    torch.set_num_threads(cpu_threads())
    out.mkdir(parents=True, exist_ok=True)
    results = ResultFile(out / "gate.rows.json")
    left = int(os.environ.get("ROWS") or len(ROWS))
    finished = []
    with tempfile.TemporaryDirectory() as scratch:
        parent = make_parent(DEFAULT_CHECKPOINT, Path(scratch) / "parent")
        for place, row in enumerate(ROWS, 1):
            title = f"{place}/{len(ROWS)} {row}"
            key = f"{row} {digest_modules('services.trainer', 'tests.benchmarks.gate')}"
            measured = results.get(key)
            if measured is None and left > 0:
                left -= 1
                measured = measure(row, parent, Path(scratch), partial(_log_under, title))
                results.put(key, measured)
            if measured is not None:
                log(f"{title}: {measured}")
                finished.append({"feedback": row.feedback, "seed": row.seed} | measured)
    table = _table(finished)
    sys.stdout.write(table)
    return {"target_fmr": TARGET, "rows": finished, "table": table}


def measure(
    row: GateRow, parent: Path, scratch: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    """Train once; return the gate's outcome and the gain on people whom nobody trained on."""
    persons = np.repeat(np.arange(row.people), _IMAGES)
    crops = _render(4_000_000 + 10_000 * row.seed, row.people)
    workdir = Path(tempfile.mkdtemp(dir=scratch))
    outcome = train(
        parent,
        crops,
        row.pairs(persons),
        default_reference(),
        workdir=workdir,
        seed=row.seed,
        report=report,
        epochs=_EPOCHS,
        target_fmr=TARGET,
    )
    report("measuring on unseen people")
    before, after = (_tar(folder) for folder in (parent, outcome.folder))
    refused = [check.detail for check in outcome.gate.checks if not check.passed]
    shutil.rmtree(workdir)
    return {
        "outcome": str(outcome.gate.outcome),
        "missing": outcome.gate.missing,
        "refused": refused,
        "tar_before": before,
        "tar_after": after,
    }


def _tar(folder: Path) -> float:
    """TAR at the target on the unseen people, at the threshold that keeps it there."""
    network = load_checkpoint(folder / WEIGHTS_FILE).network
    persons = np.repeat(np.arange(_UNSEEN), _IMAGES)
    crops = _render(_FIRST_UNSEEN, _UNSEEN)
    features = compute_features(network, read_manifest(folder).channel_order, crops)
    scores = score_pairs(reference_pairs(persons, np.arange(len(persons)), 0), features)
    threshold = np.quantile(scores.similarity[~scores.genuine], 1 - TARGET)
    return float((scores.similarity[scores.genuine] >= threshold).mean())


@cache
def _render(first: int, people: int) -> Crops:
    return np.stack(
        [
            render_person(first + person, image)
            for person in range(people)
            for image in range(_IMAGES)
        ]
    )


def _table(rows: list[dict[str, Any]]) -> str:
    lines = []
    for feedback in ("gain", "null", "few"):
        own = [row for row in rows if row["feedback"] == feedback]
        if not own:
            continue
        outcomes = [row["outcome"] for row in own]
        counts = ", ".join(f"{outcomes.count(one)} {one}" for one in sorted(set(outcomes)))
        gains = [row["tar_after"] - row["tar_before"] for row in own]
        lines.append(f"{feedback}: {counts}; mean gain of TAR {np.mean(gains):+.3f}\n")
    return "".join(lines)


def _log_under(title: str, line: str) -> None:
    log(f"{title}: {line}")
