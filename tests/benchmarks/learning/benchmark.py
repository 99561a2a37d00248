"""Gain of fine-tuning on corrections, and what it forgets (`make bench-learning`).

`make bench-learning FACES=DIR CHECKPOINT=FILE` uses other faces, aligned crops in a folder per
identity, and another network. Finished rows are stored in ``learning.rows.json``.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.training.features import compute_features
from services.trainer.training.spec import TrainingRecipe
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet
from shared.model.sessions.cpu import cpu_threads
from tests.benchmarks.learning.baselines import as_baseline
from tests.benchmarks.learning.faces import PAIRS, Split, draw_pairs, real_people, rendered_people
from tests.benchmarks.learning.figures import FAR, figures
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.learning.rows import ROWS, WRONG_SHARE, LearningResults, LearningRow
from tests.benchmarks.learning.seed_loop import train_as_seed
from tests.benchmarks.learning.speed import measure_speed
from tests.benchmarks.learning.table import make_table
from tests.benchmarks.progress import log

MATERIAL_FACES = Path("../shared/faces/lfw")
# As many as in the first experiment in ../shared/magface-facts.md. The seed's own ten epochs
# forget more.
_SEED_EPOCHS = 6
_SPEED = "speed"
_PRODUCT_RECIPES = {"hadsell": TrainingRecipe.HADSELL}

Report = Callable[[str], None]


def run(out: Path) -> dict[str, Any]:
    """Measure the rows without a stored result, and print the table.

    Args:
        out: Folder for the stored rows.

    Returns:
        All rows, and the table.
    """
    torch.set_num_threads(cpu_threads())
    faces = Path(os.environ.get("FACES") or MATERIAL_FACES)
    checkpoint = Path(os.environ.get("CHECKPOINT") or DEFAULT_CHECKPOINT)
    real = faces.is_dir()
    if not real:
        log(f"{faces} does not exist; skipping real faces; name a folder with FACES=DIR")
    out.mkdir(parents=True, exist_ok=True)
    material = f"{faces.name if real else ''} {checkpoint.name}"
    results = LearningResults(out / "learning.rows.json", material)
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(checkpoint, faces if real else None, Path(scratch))
        todo: list[tuple[LearningRow | str, Callable[[Report], dict[str, Any]]]] = [
            (row, partial(bench.measure, row)) for row in ROWS if real or row.people == "rendered"
        ]
        todo.insert(2, (_SPEED, bench.speed))
        for place, (row, measure) in enumerate(todo, 1):
            title = f"{place}/{len(todo)} {row}"
            if results.get(row) is None:
                start = time.monotonic()
                measured = measure(partial(_log_under, title))
                results.put(row, measured | {"seconds": round(time.monotonic() - start)})
            log(f"{title}: {json.dumps(results.get(row))}")
    finished = {row: figures for row, _ in todo if (figures := results.get(row))}
    table = make_table(finished)
    sys.stdout.write(table)
    return {
        "faces": faces.name if real else None,
        "checkpoint": checkpoint.name,
        "rows": [
            (asdict(row) if isinstance(row, LearningRow) else {"recipe": row}) | row_figures
            for row, row_figures in finished.items()
        ],
        "table": table,
    }


class _Bench:
    def __init__(self, checkpoint: Path, faces: Path | None, scratch: Path) -> None:
        self._parent = make_parent(checkpoint, scratch / "parent")
        self._faces = faces
        self._scratch = scratch
        self._order = read_manifest(self._parent).channel_order

    @cache  # noqa: B019 - one object a process
    def _split(self, people: str, seed: int) -> Split:
        if people == "rendered" or self._faces is None:
            return rendered_people()
        return real_people(self._faces, seed)

    def measure(self, row: LearningRow, report: Report) -> dict[str, Any]:
        split = self._split(row.people, row.seed)
        parent = load_checkpoint(self._parent / WEIGHTS_FILE).network
        workdir = Path(tempfile.mkdtemp(dir=self._scratch))
        network, extra = self._train(row, split, workdir, report)
        report("measuring")
        embed = partial(compute_features, network, self._order)
        measured = {}
        for view, crops in split["test"].views.items():
            calibration = split["calibration"]
            measured[view] = asdict(
                figures(
                    (embed(calibration.views[view]), calibration.persons),
                    (embed(crops), split["test"].persons),
                    compute_features(parent, self._order, crops),
                )
            )
        shutil.rmtree(workdir)
        return measured | extra

    def _train(
        self, row: LearningRow, split: Split, workdir: Path, report: Report
    ) -> tuple[IResNet, dict[str, Any]]:
        network = load_checkpoint(self._parent / WEIGHTS_FILE).network
        if row.recipe == "parent":
            return network, {}
        people = split["training"]
        crops = people.views["degraded" if row.people == "real" else "rendered"]
        pairs = draw_pairs(people.persons, PAIRS, row.seed)
        if row.wrong_labels:
            pairs = pairs.with_wrong_labels(WRONG_SHARE, row.seed)
        if row.recipe == "seed":
            train_as_seed(
                network,
                self._order,
                crops,
                pairs,
                epochs=_SEED_EPOCHS,
                seed=row.seed,
                report=report,
            )
            return network, {}
        with as_baseline(row.recipe):
            outcome = train(
                self._parent,
                crops,
                pairs,
                self._reference(row.seed),
                workdir=workdir,
                seed=row.seed,
                report=report,
                recipe=_PRODUCT_RECIPES.get(row.recipe, TrainingRecipe.COSINE),
                target_fmr=FAR,
            )
        failed = [check.detail for check in outcome.gate.checks if not check.passed]
        trained = load_checkpoint(outcome.folder / WEIGHTS_FILE).network
        metrics = outcome.manifest.metrics
        return trained, {
            "gate_passed": outcome.gate.passed,
            "gate_failed": failed,
            "parent_share": metrics["parent_share"],
        }

    def _reference(self, seed: int) -> ReferenceFaces:
        # The calibration people, in the images that are not degraded.
        people = self._split("real", seed)["calibration"]
        return ReferenceFaces(next(iter(people.views.values())), people.persons)

    def speed(self, report: Report) -> dict[str, Any]:
        workdir = Path(tempfile.mkdtemp(dir=self._scratch))
        return asdict(measure_speed(self._parent, self._reference(0), workdir, report))


def _log_under(title: str, line: str) -> None:
    log(f"{title}: {line}")
