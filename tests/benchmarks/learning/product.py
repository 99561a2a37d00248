"""The product's training on arrays, without its services."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID, uuid5

import cv2
import numpy as np

from services.trainer.data.labels import LabelledPair, Vote
from services.trainer.data.reference_faces import ReferenceFaces
from services.trainer.progress import Progress
from services.trainer.training.checkpoint import NoCheckpoints
from services.trainer.training.run import run_training
from services.trainer.training.spec import TrainingOutcome, TrainingRecipe, TrainingSpec
from shared.model.image.face import FaceImage
from tests.benchmarks.learning.faces import Crops, PairRows
from tests.default_version import export_default

_JOBS = UUID("5f1f6a1e-6c3b-4a57-9d43-7e0d7a4c9b11")
ANNOTATORS = 5


def make_parent(checkpoint: Path, folder: Path) -> Path:
    """Make a model version of a checkpoint, unless the folder has one.

    Other checkpoints get the calibration of the bundled one. The figures do not use it, and the
    training's margins are far from it.
    """
    if not folder.exists():
        export_default(folder, checkpoint=checkpoint, job_id=str(_JOBS))
    return folder


class ArraySnapshot:
    """Feedback snapshot of a few annotators; one of them labels each pair."""

    def __init__(self, crops: Crops, pairs: PairRows) -> None:
        self._images: dict[str, bytes] = {}
        names = {row: self._add(crops[row]) for row in np.unique(pairs.rows).tolist()}
        self._pairs = [
            LabelledPair(
                names[first],
                names[second],
                same,
                votes=(Vote(f"annotator-{place % ANNOTATORS}", same),),
            )
            for place, ((first, second), same) in enumerate(
                zip(pairs.rows.tolist(), pairs.same.tolist(), strict=True)
            )
        ]
        self.snapshot_id = f"benchmark-{len(self._pairs)}"

    def _add(self, crop: Crops) -> str:
        data = cv2.imencode(".png", crop)[1].tobytes()
        sha256 = hashlib.sha256(data).hexdigest()
        self._images[sha256] = data
        return sha256

    def pairs(self) -> Iterator[LabelledPair]:
        return iter(self._pairs)

    def image(self, sha256: str) -> FaceImage:
        return FaceImage(self._images[sha256], "aligned")


def train(
    parent: Path,
    crops: Crops,
    pairs: PairRows,
    reference: ReferenceFaces | None,
    *,
    workdir: Path,
    seed: int,
    report: Callable[[str], None],
    recipe: TrainingRecipe = TrainingRecipe.COSINE,
    epochs: int | None = None,
    target_fmr: float | None = None,
) -> TrainingOutcome:
    """Run one training with the product's defaults.

    Args:
        parent: From `make_parent`.
        crops: uint8 [N, 112, 112, 3], BGR.
        pairs: Labelled pairs of the crops.
        reference: Reference faces; None for a trainer without any.
        workdir: An empty folder.
        seed: See `TrainingSpec`.
        report: Gets each new progress message.
        recipe: See `TrainingSpec`.
        epochs: See `TrainingSpec`; None for its default.
        target_fmr: See `TrainingSpec`.
    """
    spec = TrainingSpec(
        job_id=str(uuid5(_JOBS, str(workdir))),
        parent_version=parent.name,
        seed=seed,
        recipe=recipe,
        target_fmr=target_fmr,
        **({} if epochs is None else {"epochs": epochs}),
    )
    message = ""

    def on_progress(progress: Progress) -> None:
        nonlocal message
        if progress.message != message:
            message = progress.message
            report(message)

    outcome = run_training(
        spec,
        feedback=ArraySnapshot(crops, pairs),
        parent=parent,
        reference=reference,
        workdir=workdir,
        # An interrupted row is measured from the start.
        checkpoints=NoCheckpoints(),
        report=on_progress,
    )
    assert outcome is not None  # one process, which is rank 0
    return outcome
