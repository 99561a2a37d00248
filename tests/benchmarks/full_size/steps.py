"""A few steps of the product's training, in one number format and memory format."""

import contextlib
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from services.trainer.data.arrays import CropArray, IndexArray
from services.trainer.data.batches import DecodedFeedback, people_batches
from services.trainer.data.reference_faces import default_reference
from services.trainer.data.splits import (
    FeedbackSplit,
    decode_feedback,
    split_feedback,
    split_reference,
)
from services.trainer.training import step_back
from services.trainer.training.camera import Camera
from services.trainer.training.checkpoint import NoCheckpoints
from services.trainer.training.distributed import local_device
from services.trainer.training.features import compute_features, features_at
from services.trainer.training.finetuner import FacesWithParent, Finetuner
from services.trainer.training.recipes import RecipeFactory
from services.trainer.training.replay import ReplayedFaces
from services.trainer.training.spec import TrainingSpec
from shared.model.image.face_reader import FaceReader
from shared.model.manifest import read_manifest
from shared.model.network.checkpoint import load_version_network
from shared.model.sessions.cpu import cpu_threads
from shared.settings import ImageLimits
from tests.benchmarks.full_size.feedback import labelled_pairs
from tests.benchmarks.learning.product import ArraySnapshot

_SEED = 0


@dataclass(frozen=True)
class TrainingFormat:
    """How the numbers of a training are stored.

    Attributes:
        bfloat16: Whether most operations compute in bfloat16 instead of float32.
        channels_last: Whether the channels of a pixel lie side by side, if the network is wide
            enough for it.
    """

    bfloat16: bool
    channels_last: bool

    def __str__(self) -> str:
        numbers = "bfloat16" if self.bfloat16 else "float32"
        return f"{numbers}, {'channels last' if self.channels_last else 'contiguous'}"


FORMATS = tuple(
    TrainingFormat(bfloat16, channels_last)
    for bfloat16 in (True, False)
    for channels_last in (True, False)
)


@contextmanager
def _training_in(kind: TrainingFormat) -> Iterator[None]:
    """Train in a format, which the product chooses by the processor and the network."""
    with ExitStack() as stack:
        training = "services.trainer.training"
        stack.enter_context(patch(f"{training}.recipes._supports_bfloat16", lambda: kind.bfloat16))
        if not kind.channels_last:
            layout = patch(
                f"{training}.finetuner._memory_format", lambda _: torch.contiguous_format
            )
            stack.enter_context(layout)
        yield


class _EnoughSteps(Exception):
    """The steps to measure are done."""


def measure_steps(
    version: Path, crops: CropArray, workdir: Path, kind: TrainingFormat, steps: int
) -> dict[str, Any]:
    """Train a version on the feedback for a few steps with the default recipe.

    Only the images of these steps are embedded with the parent. What the rest of the training
    takes is in the counts.

    Args:
        version: Folder of the parent.
        crops: From `feedback.read_faces`.
        workdir: An empty folder.
        kind: Format of the training.
        steps: Steps to measure, after one that does not count.

    Returns:
        Seconds of a step, of the embedding of an image and of the decoding, and counts of images
        and steps of the whole training. Processor seconds tell what a step takes on a machine that
        does other things as well.
    """
    torch.set_num_threads(cpu_threads())
    spec = TrainingSpec(job_id="full-size", parent_version=version.name, seed=_SEED)
    start = time.perf_counter()
    decoded = _decode(crops, workdir)
    decode_s = time.perf_counter() - start
    split = split_feedback(decoded.images, decoded.pairs, _SEED, decoded.burst)
    images = _first_images(split, 2 * spec.batch_size * (steps + 1))
    network = load_version_network(version).to(local_device())
    manifest = read_manifest(version)
    embed = partial(compute_features, network, manifest.channel_order)
    embed(decoded.crops[:2])
    began = _now()
    faces = FacesWithParent(decoded.crops, features_at(embed, decoded.crops, images))
    image_s = (_now() - began) / len(images)
    reference = split_reference(default_reference(), _SEED)
    good = reference.crops[reference.replayed]
    replay = ReplayedFaces(good, Camera.learn(decoded.crops, good, _SEED))
    recipes = RecipeFactory(spec, manifest, faces, replay, None)
    with _training_in(kind):
        tuner = recipes.finetuner(network, split.graph, images)
    return {
        "decode_s": decode_s,
        "seconds_an_image": image_s[0],
        "processor_seconds_an_image": image_s[1],
        "threads": cpu_threads(),
        **_time_steps(tuner, workdir / "epoch.pt", steps),
        **_counts(spec, decoded, split),
        "reference_images": len(np.unique(reference.pairs.images)),
    }


def _now() -> NDArray[np.float64]:
    """Return the seconds of a clock, and those that the processors have worked for this process."""
    return np.array([time.perf_counter(), time.process_time()])


def _decode(crops: CropArray, workdir: Path) -> DecodedFeedback:
    snapshot = ArraySnapshot(crops, labelled_pairs(crops))
    file = workdir / "crops.npy"
    return decode_feedback(snapshot, FaceReader(ImageLimits()), file, lambda _: None)


def _first_images(split: FeedbackSplit, count: int) -> IndexArray:
    """Return so many training images, those of a person together."""
    by_person = np.argsort(split.graph.person[split.training], kind="stable")
    return np.sort(split.training[by_person[:count]])


def _time_steps(tuner: Finetuner, file: Path, steps: int) -> dict[str, Any]:
    ends: list[NDArray[np.float64]] = []
    losses: list[float] = []

    def tick(_: float, __: int, loss: float) -> None:
        ends.append(_now())
        losses.append(loss)
        if len(ends) > steps:
            raise _EnoughSteps

    with contextlib.suppress(_EnoughSteps):
        tuner.run(lambda _: 0.0, NoCheckpoints(), file, tick)
    step_s = np.median(np.diff(ends, axis=0), axis=0).tolist()
    return {
        "seconds_a_step": step_s[0],
        "processor_seconds_a_step": step_s[1],
        "steps_measured": len(ends) - 1,
        "images_at_once": tuner.images_at_once,
        "losses": losses,
    }


def _counts(spec: TrainingSpec, decoded: DecodedFeedback, split: FeedbackSplit) -> dict[str, int]:
    def steps(images: IndexArray) -> int:
        generator = np.random.default_rng(_SEED)
        return len(list(people_batches(split.graph, images, 2 * spec.batch_size, generator)))

    validation, held_out = split.validation.images, split.held_out.images
    return {
        "epochs": spec.epochs,
        "pairs": len(decoded.pairs),
        "images": len(decoded.crops),
        "steps_an_epoch": steps(split.training),
        "steps_of_all_images": steps(np.arange(len(decoded.crops))),
        "validation_images": len(np.unique(validation)),
        "step_back_images": (len(step_back._STEPS) + 1) * len(np.unique(validation)),
        "evaluated_images": len(np.unique(np.concatenate([validation, held_out]))),
    }
