"""Speed of training steps, ours against the seed's loop."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cli.rendering.renderer import render_person
from services.trainer.data.reference_faces import ReferenceFaces
from shared.model.manifest import WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import load_checkpoint
from tests.benchmarks.learning.faces import PairRows
from tests.benchmarks.learning.product import train
from tests.benchmarks.learning.seed_loop import (
    make_optimizer,
    seed_accuracy,
    seed_batches,
    seed_step,
)

_PEOPLE, _IMAGES, _FIRST = 50, 4, 4_000_000


@dataclass(frozen=True)
class Speed:
    """Distinct labelled images per second; each image is in four pairs.

    Attributes:
        ours: With augmentation and replay.
        seed: Two embeddings per pair, forward and backward, and two more for the accuracy.
    """

    ours: float
    seed: float


def four_pairs_an_image() -> PairRows:
    """Pair each image with the next one of its person, and with one of the next person."""
    images = np.arange(_PEOPLE * _IMAGES).reshape(_PEOPLE, _IMAGES)
    within = np.stack([images, np.roll(images, -1, axis=1)], axis=-1).reshape(-1, 2)
    between = np.stack([images, np.roll(images, -1, axis=0)], axis=-1).reshape(-1, 2)
    same = np.repeat([True, False], [len(within), len(between)])
    return PairRows(np.concatenate([within, between]), same)


def measure_speed(
    parent: Path, reference: ReferenceFaces, workdir: Path, report: Callable[[str], None]
) -> Speed:
    """Measure both on the same pairs, one after the other, in this process.

    Args:
        parent: Version to start from.
        reference: Reference faces.
        workdir: An empty folder.
        report: Gets progress messages.
    """
    crops = np.stack(
        [
            render_person(_FIRST + person, image)
            for person in range(_PEOPLE)
            for image in range(_IMAGES)
        ]
    )
    pairs = four_pairs_an_image()
    outcome = train(
        parent, crops, pairs, reference, workdir=workdir, seed=0, report=report, epochs=3
    )
    ours = outcome.manifest.metrics["images_per_second"]
    report("the seed's loop")
    network = load_checkpoint(parent / WEIGHTS_FILE).network.train()
    optimizer = make_optimizer(network)
    order = read_manifest(parent).channel_order
    start = time.monotonic()
    for batch in seed_batches(crops, pairs, order, np.random.default_rng(0)):
        seed_step(network, optimizer, *batch)
        seed_accuracy(network, *batch)
    return Speed(ours, len(crops) / (time.monotonic() - start))
