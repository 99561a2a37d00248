"""What a training works on: the feedback's people and the reference faces, divided up."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import Crops, Indices
from services.trainer.data.batches import decode_once
from services.trainer.data.labels import MIN_PEOPLE, FeedbackSource, LabelledPair, images_of
from services.trainer.data.pair_graph import (
    PairGraph,
    build_graph,
    groups,
    split_people,
    usable_pairs,
)
from services.trainer.data.reference_faces import ReferenceFaces
from shared.errors import PreconditionFailed
from shared.model.image.face_reader import FaceReader

# A person with many images must not decide alone.
_GENUINE_A_PERSON = 10
_IMPOSTORS_A_GENUINE = 20


@dataclass(frozen=True)
class Pairs:
    """Pairs to measure on.

    Attributes:
        images: int64 [P, 2].
        genuine: bool [P].
        people: int32 [P, 2], who is on each side.
    """

    images: Indices
    genuine: NDArray[np.bool_]
    people: NDArray[np.int32]


def feedback_pairs(graph: PairGraph, images: Indices, seed: int) -> Pairs:
    """Pairs of some people in the feedback.

    Genuine are those the labels say or imply, impostors those labelled different and a
    random choice of those between families.

    Args:
        graph: Relates the images.
        images: int64 [M], of the people to measure on.
        seed: Of the choices.
    """
    generator = np.random.default_rng(seed)
    inside = graph.links[np.isin(graph.links, images).all(axis=1) & ~graph.same]
    known = _genuine(images, graph.family, generator, graph)
    return _pairs(known, inside, images, graph.family, generator)


def reference_pairs(persons: Indices, images: Indices, seed: int) -> Pairs:
    """Pairs of reference faces.

    Args:
        persons: int64 [N], who is on each face.
        images: int64 [M], those to measure on.
        seed: Of the choices.
    """
    generator = np.random.default_rng(seed)
    known = _genuine(images, persons, generator, None)
    return _pairs(known, np.empty((0, 2), np.int64), images, persons, generator)


def _genuine(
    images: Indices, person: Indices, generator: np.random.Generator, graph: PairGraph | None
) -> list[Indices]:
    chosen = []
    for members in groups(images, person):
        first, second = np.triu_indices(len(members), 1)
        couples = np.stack([members[first], members[second]], axis=1)
        if graph is not None:
            trusted = graph.genuine[members][:, members].toarray()[first, second]
            couples = couples[trusted > 0]
        chosen.append(generator.permutation(couples)[:_GENUINE_A_PERSON])
    return chosen


def _pairs(
    genuine: list[Indices],
    different: Indices,
    images: Indices,
    person: Indices,
    generator: np.random.Generator,
) -> Pairs:
    same = np.concatenate([np.empty((0, 2), np.int64), *genuine])
    drawn = generator.choice(images, (_IMPOSTORS_A_GENUINE * len(same), 2))
    apart = drawn[person[drawn[:, 0]] != person[drawn[:, 1]]]
    other = np.unique(np.sort(np.concatenate([different, apart]), axis=1), axis=0)
    couples = np.concatenate([same, other])
    return Pairs(
        couples,
        np.arange(len(couples)) < len(same),
        person[couples].astype(np.int32),
    )


_HELD_OUT_SHARE, _MIN_HELD_OUT = 0.12, MIN_PEOPLE
_VALIDATION_SHARE, _MIN_VALIDATION = 0.08, 6
_MIN_TRAINING = 14
_MIN_ALL = _MIN_TRAINING + _MIN_VALIDATION + _MIN_HELD_OUT


@dataclass(frozen=True)
class Decoded:
    """The feedback's images that can be read, and the labels on them.

    Attributes:
        images: SHA-256 of each of the N images.
        crops: uint8 [N, 112, 112, 3], BGR.
        pairs: Those of whose images both are there.
    """

    images: tuple[str, ...]
    crops: Crops
    pairs: tuple[LabelledPair, ...]


def decode_feedback(
    feedback: FeedbackSource, reader: FaceReader, file: Path, tick: Callable[[float], None]
) -> Decoded:
    """Decode the feedback's images.

    Args:
        feedback: Pairs and images.
        reader: Decodes and aligns the images.
        file: Takes the crops.
        tick: Called with the share of the images decoded.

    Raises:
        PreconditionFailed: If the pairs show too few people; says how many are missing.
    """
    pairs = tuple(feedback.pairs())
    named = sorted(images_of(pairs))
    _require_enough(named, pairs)
    images, crops = decode_once(named, feedback, reader, file, tick)
    left = usable_pairs(images, pairs)
    _require_enough(images, left)
    return Decoded(tuple(images), crops, left)


@dataclass(frozen=True)
class FeedbackMaterial:
    """What each of the feedback's images is for.

    Attributes:
        graph: Relates the images.
        training: Images to train on.
        validation: Pairs of other people: best epoch, threshold.
        held_out: Pairs of yet other people: the gate.
    """

    graph: PairGraph
    training: Indices
    validation: Pairs
    held_out: Pairs


def divide_feedback(
    images: Sequence[str], pairs: Sequence[LabelledPair], seed: int
) -> FeedbackMaterial:
    """Divide the people of the feedback.

    Args:
        images: SHA-256 of each image.
        pairs: Labels to go by.
        seed: Of the division.

    Raises:
        PreconditionFailed: If there are not people enough; says how many are missing.
    """
    graph = build_graph(images, pairs)
    people = _require_people(graph)
    shares = [
        max(_VALIDATION_SHARE, _MIN_VALIDATION / people),
        max(_HELD_OUT_SHARE, _MIN_HELD_OUT / people),
    ]
    training, validation, held_out = split_people(graph, shares, seed)
    return FeedbackMaterial(
        graph,
        training,
        feedback_pairs(graph, validation, seed),
        feedback_pairs(graph, held_out, seed),
    )


def _require_enough(images: Sequence[str], pairs: Sequence[LabelledPair]) -> None:
    # Wrong labels make one of many people. Before they are found, only what no finding could
    # make enough is refused.
    if sum(pair.same for pair in pairs) < _MIN_ALL:
        _require_people(build_graph(images, pairs))


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
