"""Decoded images of the feedback, and the batches of an epoch."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import CropArray, IndexArray
from services.trainer.data.influence import (
    describe_bursts,
    distinct_pairs,
    find_bursts,
    pair_weights,
    sample_images,
)
from services.trainer.data.labels import FeedbackSource, LabelledPair, images_of
from services.trainer.data.left_out import LeftOut, LeftOutImage, LeftOutReason
from services.trainer.data.pair_graph import PairGraph, group_by, links_of, usable_pairs
from shared.errors import CorruptData, InvalidInput, MagFaceError, NoFace, NotFound
from shared.model.face_check import FaceCheck
from shared.model.image.align import CROP_SIZE
from shared.model.image.face_reader import FaceReader

logger = logging.getLogger(__name__)

# Most images of one person in a batch: more would leave less room for impostors.
_IMAGES_PER_PERSON = 3
# Most images of one person, and of a burst of near-identical pictures, in an epoch: other images
# of theirs follow in other epochs.
_OF_PERSON, _OF_BURST = 24, 3


@dataclass(frozen=True)
class DecodedImages:
    """The usable ones of some images.

    Attributes:
        images: SHA-256 of the N images that can be used, in the given order.
        crops: uint8 [N, 112, 112, 3], BGR.
        left_out: The other images.
    """

    images: list[str]
    crops: CropArray
    left_out: tuple[LeftOutImage, ...]


@dataclass(frozen=True)
class DecodedFeedback:
    """The usable images of the feedback, and the labels on them.

    Attributes:
        images: SHA-256 of each of the N images.
        crops: uint8 [N, 112, 112, 3], BGR.
        pairs: Labelled pairs of which both images can be used.
        burst: int64 [N], the burst of near-identical pictures that each image belongs to.
        left_out: The other images and labels.
    """

    images: tuple[str, ...]
    crops: CropArray
    pairs: tuple[LabelledPair, ...]
    burst: IndexArray
    left_out: LeftOut


def decode_images(
    images: Sequence[str],
    feedback: FeedbackSource,
    reader: FaceReader,
    file: Path,
    tick: Callable[[float], None],
) -> DecodedImages:
    """Fetch, decode and align every image into one memory-mapped file.

    The operating system keeps as much of the file in memory as there is room for, so that the
    number of images is not limited by memory. Images that are missing, cannot be read or show no
    face are left out.

    Args:
        images: SHA-256 of each image.
        feedback: Source of the images.
        reader: Decodes and aligns them.
        file: Path of the file; overwritten.
        tick: Called with the share done, 0..1.
    """
    shape = (len(images), CROP_SIZE, CROP_SIZE, 3)
    crops = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    face_check = FaceCheck()
    usable: list[str] = []
    left_out: list[LeftOutImage] = []
    for index, sha256 in enumerate(images):
        try:
            face = feedback.image(sha256)
            crop = reader.read(face, "image")
            face_check.require_face(crop, face, "image")
            crops[len(usable)] = crop.pixels
            usable.append(sha256)
        except (InvalidInput, NotFound, CorruptData) as error:
            logger.warning("image %s is left out: %s", sha256, error)
            left_out.append(LeftOutImage(sha256, _reason(error), str(error)))
        tick((index + 1) / len(images))
    return DecodedImages(usable, crops[: len(usable)], tuple(left_out))


def decode_labelled(
    feedback: FeedbackSource, reader: FaceReader, file: Path, tick: Callable[[float], None]
) -> DecodedFeedback:
    """Decode the images of all labelled pairs; arguments as of `decode_images`."""
    pairs = tuple(feedback.pairs())
    named = sorted(images_of(pairs))
    decoded = decode_images(named, feedback, reader, file, tick)
    usable = usable_pairs(decoded.images, pairs)
    links = links_of(decoded.images, [pair for pair in usable if pair.same])
    burst = find_bursts(decoded.crops, links)
    left_out = LeftOut(
        decoded.left_out,
        len(named),
        len(pairs) - len(usable),
        len(pairs),
        describe_bursts(decoded.images, burst),
    )
    return DecodedFeedback(tuple(decoded.images), decoded.crops, usable, burst, left_out)


def measured_pairs(decoded: DecodedFeedback) -> tuple[list[LabelledPair], LeftOut]:
    """Return the labelled pairs to measure a version on, and what is left out.

    Pairs of near-identical pictures show nothing, and pairs that only differ by such count once.
    """
    same = np.array([pair.same for pair in decoded.pairs], np.bool_)
    kept = distinct_pairs(links_of(decoded.images, decoded.pairs), same, decoded.burst)
    left_out = replace(decoded.left_out, repeated_pairs=len(same) - len(kept))
    return [decoded.pairs[index] for index in kept], left_out


def _reason(error: MagFaceError) -> LeftOutReason:
    match error:
        case NotFound():
            return LeftOutReason.ERASED
        case NoFace():
            return LeftOutReason.NO_FACE
        case _:
            return LeftOutReason.UNREADABLE


@dataclass(frozen=True)
class TrainingBatch:
    """Distinct images, and the weight of every pair among them.

    Attributes:
        images: int64 [B], sorted.
        genuine: float32 [B, B], symmetric: weight of each pair as a genuine pair.
        impostor: float32 [B, B], symmetric: weight of each pair as an impostor pair.
    """

    images: IndexArray
    genuine: NDArray[np.float32]
    impostor: NDArray[np.float32]


def people_batches(
    graph: PairGraph, images: IndexArray, size: int, generator: np.random.Generator
) -> Iterator[TrainingBatch]:
    """Yield batches that together hold every image once, with images of a person together.

    Of a person with very many images, or near-identical ones, some are drawn for each epoch.

    All pairs of a batch count: genuine ones within a person, by the transitive closure of the
    labels, and impostors between two people. Two of these may be one person whom no label
    connects yet. With hundreds of people that is a rare error and a cheap one.

    Args:
        graph: The labelled pairs.
        images: int64 [M], the images to use.
        size: Images per batch; a batch may hold a few more or fewer.
        generator: Random source of the order.
    """
    chunks: list[IndexArray] = []
    singles: list[IndexArray] = []
    shown = 0
    for person in group_by(images, graph.person):
        shuffled = sample_images(
            person, graph.burst, generator, of_burst=_OF_BURST, at_most=_OF_PERSON
        )
        shown += len(shuffled)
        if len(shuffled) == 1:
            singles.append(shuffled)
            continue
        bounds = range(_IMAGES_PER_PERSON, len(shuffled) - 1, _IMAGES_PER_PERSON)
        chunks += np.split(shuffled, bounds)
    count = max(1, round(shown / size))
    ordered = [chunks[i] for i in generator.permutation(len(chunks))]
    ordered += [singles[i] for i in generator.permutation(len(singles))]
    for first in range(count):
        # Round-robin, so that every batch gets its share of genuine pairs.
        if chosen := ordered[first::count]:
            yield _with_pair_weights(graph, np.sort(np.concatenate(chosen)))


def _with_pair_weights(graph: PairGraph, images: IndexArray) -> TrainingBatch:
    genuine = graph.genuine[images][:, images].toarray()
    component = graph.component[images]
    # Within a component an excluded label may be correct, so only labels make impostors there.
    apart = (component[:, None] != component[None, :]).astype(np.float32)
    impostor = np.maximum(apart, graph.different[images][:, images].toarray())
    return TrainingBatch(images, genuine, impostor)


def pair_batches(
    graph: PairGraph, images: IndexArray, pairs: int, generator: np.random.Generator
) -> Iterator[TrainingBatch]:
    """Yield batches that together hold every labelled pair once; no other pair counts.

    Of the pairs of a person with very many, or between near-identical pictures, some are drawn for
    each epoch.

    Args:
        graph: The labelled pairs.
        images: int64 [M]; pairs with any other image are left out.
        pairs: Pairs per batch.
        generator: Random source of the order.
    """
    weight = pair_weights(graph.links, graph.same, graph.person, graph.burst)
    drawn = generator.random(len(weight)) < weight
    inside = np.flatnonzero(np.isin(graph.links, images).all(axis=1) & drawn)
    order = generator.permutation(inside)
    for chosen in np.split(order, range(pairs, len(order), pairs)):
        distinct, positions = np.unique(graph.links[chosen], return_inverse=True)
        genuine, impostor = np.zeros((2, len(distinct), len(distinct)), np.float32)
        for (a, b), same, weight in zip(
            positions.reshape(-1, 2), graph.same[chosen], graph.weight[chosen], strict=True
        ):
            target = genuine if same else impostor
            target[a, b] = target[b, a] = weight
        yield TrainingBatch(distinct, genuine, impostor)
