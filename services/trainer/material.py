"""What a training works on: the feedback's people and the reference faces, divided up."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from services.trainer.dataset import Crops, decode_once
from services.trainer.gate import MIN_PEOPLE
from services.trainer.heldout import Pairs, feedback_pairs, reference_pairs
from services.trainer.pairgraph import Indices, PairGraph, build_graph, groups, split_people
from services.trainer.training import FeedbackSource, ReferenceFaces
from shared.errors import PreconditionFailed
from shared.model.faces import FaceReader

_HELD_OUT_SHARE, _MIN_HELD_OUT = 0.12, MIN_PEOPLE
_VALIDATION_SHARE, _MIN_VALIDATION = 0.08, 6
_MIN_TRAINING = 14
_MIN_ALL = _MIN_TRAINING + _MIN_VALIDATION + _MIN_HELD_OUT


@dataclass(frozen=True)
class FeedbackMaterial:
    """The feedback's images, and what each is for.

    Attributes:
        graph: Relates the images.
        crops: uint8 [N, 112, 112, 3], BGR, in the order of the graph's images.
        training: Images to train on.
        validation: Pairs of other people: best epoch, threshold.
        held_out: Pairs of yet other people: the gate.
    """

    graph: PairGraph
    crops: Crops
    training: Indices
    validation: Pairs
    held_out: Pairs


def prepare_feedback(
    feedback: FeedbackSource,
    reader: FaceReader,
    file: Path,
    seed: int,
    tick: Callable[[float], None],
) -> FeedbackMaterial:
    """Decode the feedback's images and divide its people.

    Args:
        feedback: Pairs and images.
        reader: Decodes and aligns the images.
        file: Takes the crops.
        seed: Of the division.
        tick: Called with the share of the images decoded.

    Raises:
        PreconditionFailed: If there are not people enough; says how many are missing.
    """
    pairs = tuple(feedback.pairs())
    named = sorted({sha for pair in pairs for sha in (pair.sha256_a, pair.sha256_b)})
    _require_people(build_graph(named, pairs))
    images, crops = decode_once(named, feedback, reader, file, tick)
    graph = build_graph(images, pairs)
    people = _require_people(graph)
    shares = [
        max(_VALIDATION_SHARE, _MIN_VALIDATION / people),
        max(_HELD_OUT_SHARE, _MIN_HELD_OUT / people),
    ]
    training, validation, held_out = split_people(graph, shares, seed)
    return FeedbackMaterial(
        graph,
        crops,
        training,
        feedback_pairs(graph, validation, seed),
        feedback_pairs(graph, held_out, seed),
    )


def _require_people(graph: PairGraph) -> int:
    families = groups(np.arange(len(graph.images)), graph.family)
    paired = sum(graph.genuine[family][:, family].nnz > 0 for family in families)
    if paired < _MIN_ALL:
        raise PreconditionFailed(
            f"the feedback shows {paired} people in a pair that is labelled SAME, and at least "
            f"{_MIN_ALL} are needed: {_MIN_TRAINING} to learn from, {_MIN_VALIDATION} to "
            f"calibrate on and {_MIN_HELD_OUT} to judge by. Label more pairs of other people"
        )
    return paired


@dataclass(frozen=True)
class ReferenceMaterial:
    """Reference faces, divided by person.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR.
        replayed: Images that training goes on showing.
        pairs: Pairs of the other people.
    """

    crops: Crops
    replayed: Indices
    pairs: Pairs


def divide_reference(reference: ReferenceFaces, seed: int) -> ReferenceMaterial:
    """Keep half of the people for training and half to measure on."""
    people = np.random.default_rng(seed).permutation(np.unique(reference.persons))
    replayed = np.isin(reference.persons, people[: len(people) // 2])
    kept = np.flatnonzero(~replayed)
    return ReferenceMaterial(
        reference.crops, np.flatnonzero(replayed), reference_pairs(reference.persons, kept, seed)
    )
