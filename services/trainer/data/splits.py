"""Splits by identity: feedback for training, validation and gate, and the reference faces."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import CropArray, IndexArray
from services.trainer.data.batches import DecodedFeedback, decode_labelled
from services.trainer.data.influence import PAIRS_PER_PERSON, one_of_each, sample_images
from services.trainer.data.labels import FeedbackSource, LabelledPair, images_of
from services.trainer.data.pair_graph import PairGraph, build_graph, group_by
from services.trainer.data.people_split import genuine_pairs, require_people, split_people
from services.trainer.data.reference_faces import ReferenceFaces
from shared.model.image.face_reader import FaceReader

_IMPOSTORS_PER_GENUINE = 20
# Most impostor pairs between all images of some people.
_MOST_CROSS_PAIRS = 20_000
_IMAGES_PER_PERSON = 10
# With fewer labels SAME there are too few people, whichever of the labels are wrong.
_FEWEST_SAME = 30


@dataclass(frozen=True)
class EvaluationPairs:
    """Genuine and impostor pairs to measure on.

    Attributes:
        images: int64 [P, 2], positions of the images.
        genuine: bool [P].
        people: int32 [P, 2], the identity of each image.
    """

    images: IndexArray
    genuine: NDArray[np.bool_]
    people: NDArray[np.int32]


@dataclass(frozen=True)
class FeedbackSplit:
    """The feedback, split by person.

    Attributes:
        graph: The labelled pairs.
        training: int64 [M], images to train on.
        validation: Pairs of other people: choose the epoch and the threshold.
        crossed: All pairs between the same images: choose the step back towards the parent.
        held_out: Pairs of yet other people: the gate decides on them.
    """

    graph: PairGraph
    training: IndexArray
    validation: EvaluationPairs
    crossed: EvaluationPairs
    held_out: EvaluationPairs


@dataclass(frozen=True)
class ReferenceSplit:
    """The reference faces, split by person.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR, of all of them.
        replayed: int64 [M], images of one half of the people: replayed in training.
        pairs: Pairs of the other half, to measure on.
    """

    crops: CropArray
    replayed: IndexArray
    pairs: EvaluationPairs


def decode_feedback(
    feedback: FeedbackSource, reader: FaceReader, file: Path, tick: Callable[[float], None]
) -> DecodedFeedback:
    """Decode the images of the feedback.

    Args:
        feedback: Pairs and images.
        reader: Decodes and aligns the images.
        file: File for the crops.
        tick: Called with the share done, 0..1.

    Raises:
        PreconditionFailed: If the pairs show too few people; the message says how many labels are
            missing.
    """
    pairs = tuple(feedback.pairs())
    _require_enough(sorted(images_of(pairs)), pairs)
    decoded = decode_labelled(feedback, reader, file, tick)
    with decoded.left_out.named_in_refusals():
        _require_enough(decoded.images, decoded.pairs, decoded.burst)
    return decoded


def split_feedback(
    images: Sequence[str],
    pairs: Sequence[LabelledPair],
    seed: int,
    burst: IndexArray | None = None,
) -> FeedbackSplit:
    """Split the people of the feedback into training, validation and held-out people.

    Args:
        images: SHA-256 of each image.
        pairs: Labelled pairs of them.
        seed: Seed of the split and of the choice of pairs.
        burst: See `build_graph`.

    Raises:
        PreconditionFailed: If the pairs show too few people; the message says how many labels are
            missing.
    """
    graph = build_graph(images, pairs, burst)
    people = split_people(graph, seed)
    validation = feedback_pairs(graph, people.validation, seed)
    return FeedbackSplit(
        graph,
        people.training,
        validation,
        cross_pairs(validation, graph.component, seed),
        feedback_pairs(graph, people.held_out, seed),
    )


def split_reference(reference: ReferenceFaces, seed: int) -> ReferenceSplit:
    """Split the people of the reference faces into replayed and measured halves."""
    people = np.random.default_rng(seed).permutation(np.unique(reference.persons))
    replayed = np.isin(reference.persons, people[: len(people) // 2])
    measured = np.flatnonzero(~replayed)
    return ReferenceSplit(
        reference.crops,
        np.flatnonzero(replayed),
        reference_pairs(reference.persons, measured, seed),
    )


def feedback_pairs(graph: PairGraph, images: IndexArray, seed: int) -> EvaluationPairs:
    """Choose pairs of some people of the feedback.

    Genuine pairs are those that labels state or imply. Impostor pairs are those labelled
    DIFFERENT, and a random choice of pairs between components. A person counts with ten images
    and ten pairs of each kind, and a burst of near-identical pictures with one image.

    Args:
        graph: The labelled pairs.
        images: int64 [M], images of the people to measure on.
        seed: Seed of the choice.
    """
    generator = np.random.default_rng(seed)
    different = graph.links[np.isin(graph.links, images).all(axis=1) & ~graph.same]
    different = _limited(one_of_each(different, graph.burst), graph.component, generator)
    genuine = _genuine_pairs(images, graph.component, generator, graph)
    drawn = [
        sample_images(each, graph.burst, generator, of_burst=1, at_most=_IMAGES_PER_PERSON)
        for each in group_by(images, graph.component)
    ]
    images = np.sort(np.concatenate([images[:0], *drawn]))
    return _with_impostors(genuine, different, images, graph.component, generator)


def cross_pairs(pairs: EvaluationPairs, person: IndexArray, seed: int) -> EvaluationPairs:
    """Add the impostor pairs between all images of some pairs, or a random choice of very many.

    Args:
        pairs: The pairs, all of whose genuine and impostor pairs are kept.
        person: int64 [N], the identity of each image.
        seed: Seed of the choice.
    """
    images = np.unique(pairs.images)
    first, second = np.triu_indices(len(images), 1)
    crossed = np.stack([images[first], images[second]], axis=1)
    apart = crossed[person[crossed[:, 0]] != person[crossed[:, 1]]]
    if len(apart) > _MOST_CROSS_PAIRS:
        apart = np.random.default_rng(seed).choice(apart, _MOST_CROSS_PAIRS, replace=False)
    known = pairs.images[~pairs.genuine]
    impostors = np.unique(np.sort(np.concatenate([known, apart]), axis=1), axis=0)
    return _evaluation_pairs(pairs.images[pairs.genuine], impostors, person)


def reference_pairs(persons: IndexArray, images: IndexArray, seed: int) -> EvaluationPairs:
    """Choose pairs of reference faces.

    Args:
        persons: int64 [N], the identity of each face.
        images: int64 [M], faces to measure on.
        seed: Seed of the choice.
    """
    generator = np.random.default_rng(seed)
    genuine = _genuine_pairs(images, persons, generator, None)
    return _with_impostors(genuine, np.empty((0, 2), np.int64), images, persons, generator)


def _genuine_pairs(
    images: IndexArray,
    person: IndexArray,
    generator: np.random.Generator,
    graph: PairGraph | None,
) -> list[IndexArray]:
    chosen = []
    for members in group_by(images, person):
        if graph is None:
            first, second = np.triu_indices(len(members), 1)
            pairs = np.stack([members[first], members[second]], axis=1)
        else:
            pairs = genuine_pairs(graph, members)
        chosen.append(generator.permutation(pairs)[:PAIRS_PER_PERSON])
    return chosen


def _limited(pairs: IndexArray, person: IndexArray, generator: np.random.Generator) -> IndexArray:
    """Draw pairs of different people, of each person at most `PAIRS_PER_PERSON`."""
    counted: Counter[int] = Counter()
    kept = []
    for pair in generator.permutation(pairs):
        people = {int(person[image]) for image in pair}
        if all(counted[one] < PAIRS_PER_PERSON for one in people):
            counted.update(people)
            kept.append(pair)
    return np.array(kept, np.int64).reshape(-1, 2)


def _with_impostors(
    genuine: list[IndexArray],
    different: IndexArray,
    images: IndexArray,
    person: IndexArray,
    generator: np.random.Generator,
) -> EvaluationPairs:
    same = np.concatenate([np.empty((0, 2), np.int64), *genuine])
    drawn = generator.choice(images, (_IMPOSTORS_PER_GENUINE * len(same), 2))
    apart = drawn[person[drawn[:, 0]] != person[drawn[:, 1]]]
    impostors = np.unique(np.sort(np.concatenate([different, apart]), axis=1), axis=0)
    return _evaluation_pairs(same, impostors, person)


def _evaluation_pairs(
    genuine: IndexArray, impostors: IndexArray, person: IndexArray
) -> EvaluationPairs:
    pairs = np.concatenate([genuine, impostors])
    return EvaluationPairs(
        pairs, np.arange(len(pairs)) < len(genuine), person[pairs].astype(np.int32)
    )


def _require_enough(
    images: Sequence[str], pairs: Sequence[LabelledPair], burst: IndexArray | None = None
) -> None:
    # Wrong labels can merge many people into one. As long as these are not removed, refuse only
    # what could not be enough with any of them removed.
    if sum(pair.same for pair in pairs) < _FEWEST_SAME:
        require_people(build_graph(images, pairs, burst))
