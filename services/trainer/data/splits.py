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

# Most impostor pairs: more take longer, and no interval over people becomes narrower.
_MOST_IMPOSTORS = 2_000_000
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
        validation: Pairs of other people: choose the epoch, the step back to the parent and the
            threshold.
        held_out: Pairs of yet other people: the gate decides on them.
        held_out_images: int64 [H], all images of these people.
    """

    graph: PairGraph
    training: IndexArray
    validation: EvaluationPairs
    held_out: EvaluationPairs
    held_out_images: IndexArray


@dataclass(frozen=True)
class ReferenceSplit:
    """The reference faces, split by person.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR, of all of them.
        replayed: int64 [M], images of one half of the people: replayed in training.
        pairs: Pairs of the other half, to measure on.
        groups: The group of each person; see `ReferenceFaces`.
    """

    crops: CropArray
    replayed: IndexArray
    pairs: EvaluationPairs
    groups: tuple[str, ...] = ()


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
    return FeedbackSplit(
        graph,
        people.training,
        feedback_pairs(graph, people.validation, seed),
        feedback_pairs(graph, people.held_out, seed),
        people.held_out,
    )


def split_reference(reference: ReferenceFaces, seed: int) -> ReferenceSplit:
    """Split the people of the reference faces into replayed and measured halves.

    Half of each group is measured, so that a group of twenty is enough to be judged.
    """
    people = np.random.default_rng(seed).permutation(np.unique(reference.persons))
    half = people[: len(people) // 2]
    if reference.groups:
        group = np.array(reference.groups)[people]
        half = people[np.argsort(group, kind="stable")][1::2]
    replayed = np.isin(reference.persons, half)
    measured = np.flatnonzero(~replayed)
    return ReferenceSplit(
        reference.crops,
        np.flatnonzero(replayed),
        reference_pairs(reference.persons, measured, seed),
        reference.groups,
    )


def feedback_pairs(graph: PairGraph, images: IndexArray, seed: int) -> EvaluationPairs:
    """Choose pairs of some people of the feedback.

    Genuine pairs are those that labels state or imply. Impostor pairs are those labelled
    DIFFERENT, and all pairs between components of several images: an image without a label SAME
    often shows a person whom other images show as well, and would be no impostor of theirs. A
    person counts with ten images, ten genuine pairs and ten pairs labelled DIFFERENT, and a burst
    of near-identical pictures with one image.

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
        if len(each) > 1
    ]
    images = np.sort(np.concatenate([images[:0], *drawn]))
    return _with_impostors(genuine, different, images, graph.component, generator)


def reference_pairs(persons: IndexArray, images: IndexArray, seed: int) -> EvaluationPairs:
    """Choose pairs of reference faces: genuine ones, and all pairs between people.

    A person counts with ten genuine pairs, and with ten images in the other pairs.

    Args:
        persons: int64 [N], the identity of each face.
        images: int64 [M], faces to measure on.
        seed: Seed of the choice.
    """
    generator = np.random.default_rng(seed)
    genuine = _genuine_pairs(images, persons, generator, None)
    drawn = [generator.permutation(each)[:_IMAGES_PER_PERSON] for each in group_by(images, persons)]
    counted = np.sort(np.concatenate([images[:0], *drawn]))
    return _with_impostors(genuine, np.empty((0, 2), np.int64), counted, persons, generator)


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
    found = np.concatenate([different, _between_people(images, person, generator)])
    first, second = np.sort(found, axis=1).T
    key = np.unique(first * len(person) + second)
    pairs = np.concatenate([same, np.stack(np.divmod(key, len(person)), axis=1)])
    return EvaluationPairs(pairs, np.arange(len(pairs)) < len(same), person[pairs].astype(np.int32))


def _between_people(
    images: IndexArray, person: IndexArray, generator: np.random.Generator
) -> IndexArray:
    """Return all pairs of images of two people, int64 [P, 2]; a random choice if these are many."""
    size = len(images)
    if size * (size - 1) // 2 <= _MOST_IMPOSTORS:
        places = np.stack(np.triu_indices(size, 1), axis=1)
    else:
        places = generator.integers(size, size=(_MOST_IMPOSTORS, 2))
    pairs = images[places].reshape(-1, 2)
    return np.asarray(pairs[person[pairs[:, 0]] != person[pairs[:, 1]]])


def _require_enough(
    images: Sequence[str], pairs: Sequence[LabelledPair], burst: IndexArray | None = None
) -> None:
    # Wrong labels can merge many people into one. As long as these are not removed, refuse only
    # what could not be enough with any of them removed.
    if sum(pair.same for pair in pairs) < _FEWEST_SAME:
        require_people(build_graph(images, pairs, burst))
