"""Whether fine-tuning learns from corrections and forgets nothing (`make bench-learning`).

`make bench-learning FACES=DIR CHECKPOINT=FILE` measures on other faces, a folder per identity of
aligned crops, and another network. Rows are kept in ``learning.rows.json`` as they finish.
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
from services.trainer.training.spec import Recipe
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet
from shared.model.sessions.cpu import cpu_threads
from tests.benchmarks.learning.faces import PAIRS, Split, draw_pairs, real_people, rendered_people
from tests.benchmarks.learning.figures import figures
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.learning.rows import ROWS, WRONG_SHARE, KeptRows, Row
from tests.benchmarks.learning.seed_loop import train_as_seed
from tests.benchmarks.learning.speed import measure_speed
from tests.benchmarks.learning.table import make_table

_MATERIAL_FACES = Path("../shared/faces/lfw")
# As many as the first try that ../shared/magface-facts.md reports; fewer than the seed's ten,
# which forgets more.
_SEED_EPOCHS = 6
_SPEED = "speed"

Tick = Callable[[str], None]


def run(out: Path) -> dict[str, Any]:
    """Measure what is not yet measured, and print the table.

    Args:
        out: Folder for the rows that are kept.

    Returns:
        Every row, and the table.
    """
    torch.set_num_threads(cpu_threads())
    faces = Path(os.environ.get("FACES") or _MATERIAL_FACES)
    checkpoint = Path(os.environ.get("CHECKPOINT") or DEFAULT_CHECKPOINT)
    real = faces.is_dir()
    if not real:
        _say(f"{faces} is not there: real faces are skipped; name a folder with FACES=DIR")
    out.mkdir(parents=True, exist_ok=True)
    kept = KeptRows(out / "learning.rows.json", f"{faces.name if real else ''} {checkpoint.name}")
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(checkpoint, faces if real else None, Path(scratch))
        todo: list[tuple[Row | str, Callable[[Tick], dict[str, Any]]]] = [
            (row, partial(bench.measure, row)) for row in ROWS if real or row.people == "rendered"
        ]
        todo.insert(2, (_SPEED, bench.speed))
        for place, (row, measure) in enumerate(todo, 1):
            title = f"{place}/{len(todo)} {row}"
            if kept.get(row) is None:
                start = time.monotonic()
                measured = measure(partial(_tell, title))
                kept.put(row, measured | {"seconds": round(time.monotonic() - start)})
            _say(f"{title}: {json.dumps(kept.get(row))}")
    finished = {row: found for row, _ in todo if (found := kept.get(row))}
    table = make_table(finished)
    sys.stdout.write(table)
    return {
        "faces": faces.name if real else None,
        "checkpoint": checkpoint.name,
        "rows": [
            (asdict(row) if isinstance(row, Row) else {"recipe": row}) | found
            for row, found in finished.items()
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

    def measure(self, row: Row, tick: Tick) -> dict[str, Any]:
        split = self._split(row.people, row.seed)
        parent = load_checkpoint(self._parent / WEIGHTS_FILE).network
        workdir = Path(tempfile.mkdtemp(dir=self._scratch))
        network, more = self._trained(row, split, workdir, tick)
        tick("measuring")
        look = partial(compute_features, network, self._order)
        measured = {}
        for view, crops in split["test"].views.items():
            calibration = split["calibration"]
            measured[view] = asdict(
                figures(
                    (look(calibration.views[view]), calibration.persons),
                    (look(crops), split["test"].persons),
                    compute_features(parent, self._order, crops),
                )
            )
        shutil.rmtree(workdir)
        return measured | more

    def _trained(
        self, row: Row, split: Split, workdir: Path, tick: Tick
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
                tick=tick,
            )
            return network, {}
        outcome = train(
            self._parent,
            crops,
            pairs,
            self._reference(row.seed),
            workdir=workdir,
            seed=row.seed,
            tick=tick,
            recipe=Recipe.COSINE if row.recipe == "ours" else Recipe.HADSELL,
        )
        failed = [check.detail for check in outcome.gate.checks if not check.passed]
        trained = load_checkpoint(outcome.folder / WEIGHTS_FILE).network
        return trained, {"gate_passed": outcome.gate.passed, "gate_failed": failed}

    def _reference(self, seed: int) -> ReferenceFaces:
        # The people whom the threshold is calibrated on, as good a camera sees them.
        people = self._split("real", seed)["calibration"]
        return ReferenceFaces(next(iter(people.views.values())), people.persons)

    def speed(self, tick: Tick) -> dict[str, Any]:
        workdir = Path(tempfile.mkdtemp(dir=self._scratch))
        return asdict(measure_speed(self._parent, self._reference(0), workdir, tick))


def _tell(title: str, what: str) -> None:
    _say(f"{title}: {what}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
