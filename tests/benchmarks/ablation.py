"""Ablation of the training: its gain without each of its parts (`make bench-ablation`).

It uses real people with degraded images, as `learning` does, but splits them by other seeds:
choices made with the ablation are not made on the test people that `learning` reports.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torchvision.transforms import v2

from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.training.augmentation import augmentation
from services.trainer.training.camera import Camera, Spoiling
from services.trainer.training.features import compute_features
from services.trainer.training.finetuner import Hyperparameters
from services.trainer.training.losses import CosineObjective
from services.trainer.training.replay import ReplayedFaces
from services.trainer.training.step_back import StepBack
from shared.errors import PreconditionFailed
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.image.align import CROP_SIZE
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.cpu import cpu_threads
from tests.benchmarks.learning.benchmark import MATERIAL_FACES
from tests.benchmarks.learning.faces import PAIRS, draw_pairs, real_people
from tests.benchmarks.learning.figures import Figures, figures
from tests.benchmarks.learning.product import make_parent, train
from tests.benchmarks.learning.rows import LearningResults
from tests.benchmarks.learning.table import markdown
from tests.benchmarks.progress import log

_SEEDS = (3, 4)
# Half of the default, to save time.
_EPOCHS = 4
_STEPS = ("mirror", "light", "jpeg")
_VIEWS = ("degraded", "clean")

_UNSPOILED = Spoiling(side=CROP_SIZE, gamma=1.0, gain=1.0, noise=0.0, quality=100)

Patch = tuple[str, Any]


def _hyperparameters(**changes: object) -> Patch:
    return (
        "services.trainer.training.recipes.Hyperparameters",
        lambda **given: Hyperparameters(**(given | changes)),
    )


def _objective(**changes: object) -> Patch:
    return (
        "services.trainer.training.recipes.CosineObjective",
        lambda **given: CosineObjective(**(given | changes)),
    )


def _augmentation(without: str) -> Patch:
    def make(probability: float) -> v2.Transform:
        steps = zip(_STEPS, augmentation(probability).transforms, strict=True)
        return v2.Compose([step for name, step in steps if name != without])

    return "services.trainer.training.finetuner.augmentation", make


VARIANTS: Mapping[str, Patch | None] = {
    "as it is": None,
    "no augmentation": _hyperparameters(augmentation=None),
    **{f"augmentation without {step}": _augmentation(step) for step in _STEPS},
    "no running average": _hyperparameters(averaging=0.0),
    "no step back towards the parent": (
        "services.trainer.training.run.step_back",
        lambda *_, **__: StepBack(share=0.0, gain=0.0, noise=0.0, people=0),
    ),
    "no replay": ("services.trainer.training.run._MAX_REPLAY_ERROR", -1.0),
    "replay of a third of the faces": (
        "services.trainer.training.run.ReplayedFaces",
        lambda crops, camera: ReplayedFaces(crops[::3], camera),
    ),
    "no camera in the replay": (
        "services.trainer.training.run.Camera.learn",
        lambda *_: Camera((_UNSPOILED,)),
    ),
    "no distillation on the feedback": _objective(distillation=0.0),
    "no compatibility loss": _objective(compatibility=0.0),
    "no margins": _objective(margin=0.0),
}


def run(out: Path) -> dict[str, Any]:
    """Measure the rows without a stored result, and print the table.

    Args:
        out: Folder for the stored rows.

    Raises:
        PreconditionFailed: There are no faces.
    """
    torch.set_num_threads(cpu_threads())
    faces = Path(os.environ.get("FACES") or MATERIAL_FACES)
    if not faces.is_dir():
        raise PreconditionFailed(f"{faces} does not exist; name a folder of faces with FACES=DIR")
    out.mkdir(parents=True, exist_ok=True)
    results = LearningResults(out / "ablation.rows.json", faces.name)
    with tempfile.TemporaryDirectory() as scratch:
        bench = _Bench(faces, Path(scratch))
        for seed in _SEEDS:
            for place, (name, change) in enumerate(VARIANTS.items(), 1):
                key = f"{name}, seed {seed}"
                if results.get(key) is None:
                    results.put(key, bench.measure(seed, change))
                log(f"{place}/{len(VARIANTS)} {key}: {results.get(key)}")
    rows = {
        name: [found for seed in _SEEDS if (found := results.get(f"{name}, seed {seed}"))]
        for name in VARIANTS
    }
    table = make_table(rows)
    sys.stdout.write(table)
    return {"faces": faces.name, "seeds": _SEEDS, "rows": rows, "table": table}


class _Bench:
    def __init__(self, faces: Path, scratch: Path) -> None:
        self._faces = faces
        self._scratch = scratch
        self._parent = make_parent(DEFAULT_CHECKPOINT, scratch / "parent")
        self._order = read_manifest(self._parent).channel_order

    def measure(self, seed: int, change: Patch | None) -> dict[str, Any]:
        """Train with one change, and give the gain of each figure over the parent."""
        split = real_people(self._faces, seed)
        people, calibration = split["training"], split["calibration"]
        workdir = Path(tempfile.mkdtemp(dir=self._scratch))
        with changed_by(change):
            outcome = train(
                self._parent,
                people.views["degraded"],
                draw_pairs(people.persons, PAIRS, seed),
                ReferenceFaces(calibration.views["clean"], calibration.persons),
                workdir=workdir,
                seed=seed,
                report=lambda _: None,
                epochs=_EPOCHS,
            )
        before, after = (
            {view: self._figures(folder, split, view) for view in _VIEWS}
            for folder in (self._parent, outcome.folder)
        )
        return {view: _gains(before[view], after[view]) for view in _VIEWS}

    def _figures(self, folder: Path, split: Mapping[str, Any], view: str) -> Figures:
        embed, embed_stored = (
            partial(compute_features, load_checkpoint(each / WEIGHTS_FILE).network, self._order)
            for each in (folder, self._parent)
        )
        calibration, test = split["calibration"], split["test"]
        return figures(
            (embed(calibration.views[view]), calibration.persons),
            (embed(test.views[view]), test.persons),
            embed_stored(test.views[view]),
        )


@contextmanager
def changed_by(change: Patch | None) -> Iterator[None]:
    """Run trainings with one change, and without the search for wrong labels."""
    with ExitStack() as stack:
        # All labels are correct here; a search for wrong ones would only cost time.
        unchecked = "services.trainer.training.recipes.RecipeFactory.half_trainer"
        stack.enter_context(patch(unchecked, lambda *_, **__: None))
        if change is not None:
            stack.enter_context(patch(*change))
        yield


def _gains(before: Figures, after: Figures) -> dict[str, float]:
    old, new = asdict(before), asdict(after)
    return {
        "accuracy": 100 * (new["accuracy"] - old["accuracy"]),
        "tar": new["tar"] - old["tar"],
        "stored_tar": new["stored_tar"] - old["tar"],
    }


def make_table(rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Make a Markdown table of the gains over the parent, each the mean over the seeds."""
    head = [
        "training",
        *(
            f"{view}: {figure}"
            for view in _VIEWS
            for figure in ("accuracy, points", "TAR@FAR 1e-2", "old against new")
        ),
    ]
    lines = []
    for name, measured in rows.items():
        if measured:
            gains = [
                f"{np.mean([row[view][figure] for row in measured]):+.{digits}f}"
                for view in _VIEWS
                for figure, digits in (("accuracy", 1), ("tar", 3), ("stored_tar", 3))
            ]
            lines.append([name, *gains])
    return markdown(head, lines)
