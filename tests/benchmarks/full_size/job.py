"""A whole training job on little feedback, with the seconds of its stages."""

import itertools
import time
from pathlib import Path
from typing import Any

from services.trainer.data.arrays import CropArray
from services.trainer.data.reference_faces import default_reference
from shared.model.golden import passes_self_check
from tests.benchmarks.full_size.feedback import labelled_pairs
from tests.benchmarks.learning.product import train


def measure_job(version: Path, crops: CropArray, workdir: Path, epochs: int) -> dict[str, Any]:
    """Train a version, evaluate the candidate and export it, as the trainer's worker does.

    Args:
        version: Folder of the parent.
        crops: From `feedback.read_faces`.
        workdir: An empty folder.
        epochs: Passes over the feedback.

    Returns:
        Seconds of the job and of each stage, by the stage's message, and whether the candidate
        passes its self-check.
    """
    messages: list[tuple[float, str]] = []
    start = time.perf_counter()
    outcome = train(
        version,
        crops,
        labelled_pairs(crops),
        default_reference(),
        workdir=workdir,
        seed=0,
        report=lambda message: messages.append((time.perf_counter(), message)),
        epochs=epochs,
    )
    messages.append((time.perf_counter(), "end"))
    stages: dict[str, float] = {}
    for (began, message), (ended, _) in itertools.pairwise(messages):
        stage = message.partition(",")[0]
        stages[stage] = stages.get(stage, 0.0) + ended - began
    return {
        "images": len(crops),
        "epochs": epochs,
        "seconds": messages[-1][0] - start,
        "stages": stages,
        "self_check": passes_self_check(outcome.folder),
    }
