"""Images of the feedback, decoded once, and the batches that an epoch is made of."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import Crops, Indices
from services.trainer.data.labels import FeedbackSource
from services.trainer.data.pair_graph import PairGraph, groups
from shared.errors import InvalidInput, NotFound
from shared.model.image.align import CROP_SIZE
from shared.model.image.face_reader import FaceReader

logger = logging.getLogger(__name__)

# Of one person, in one batch: more of them push out other people, the impostors.
_IMAGES_A_PERSON = 3


def decode_once(
    images: Sequence[str],
    feedback: FeedbackSource,
    reader: FaceReader,
    file: Path,
    tick: Callable[[float], None],
) -> tuple[list[str], Crops]:
    """Fetch, decode and align every image into one file.

    The file is mapped, not read: the operating system keeps in memory what it has room
    for, however many images there are.

    Args:
        images: SHA-256 of each image.
        feedback: Where they come from.
        reader: Decodes and aligns them.
        file: Is overwritten.
        tick: Called with the share done.

    Returns:
        Hashes of the N images that could be read, in their order, and their crops:
        uint8 [N, 112, 112, 3], BGR.
    """
    shape = (len(images), CROP_SIZE, CROP_SIZE, 3)
    crops = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    usable: list[str] = []
    for index, sha256 in enumerate(images):
        try:
            crops[len(usable)] = reader.crop(feedback.image(sha256), sha256)
            usable.append(sha256)
        except (InvalidInput, NotFound) as error:
            logger.warning("image %s is left out: %s", sha256, error)
        tick((index + 1) / len(images))
    return usable, crops[: len(usable)]


@dataclass(frozen=True)
class Batch:
    """Distinct images, and how each couple of them is related.

    Attributes:
        images: int64 [B], sorted.
        genuine: float32 [B, B], symmetric, weight of a couple as one person.
        impostor: float32 [B, B], symmetric, weight of a couple as two people.
    """

    images: Indices
    genuine: NDArray[np.float32]
    impostor: NDArray[np.float32]


def people_batches(
    graph: PairGraph, images: Indices, size: int, generator: np.random.Generator
) -> Iterator[Batch]:
    """Deal every image out once, people with several images together.

    Every couple of a batch is a pair: genuine within a person, by the transitive closure
    of the labels, and impostor between two. Two of them may be one person nobody has
    linked yet: with hundreds of people a rare error, and one that costs little.

    Args:
        graph: Relates the images.
        images: int64 [M], those to deal out.
        size: Images a batch; the last may hold a few more.
        generator: Of the order.
    """
    handfuls: list[Indices] = []
    alone: list[Indices] = []
    for person in groups(images, graph.person):
        if len(person) == 1:
            alone.append(person)
            continue
        shuffled = generator.permutation(person)
        cuts = range(_IMAGES_A_PERSON, len(person) - 1, _IMAGES_A_PERSON)
        handfuls += np.split(shuffled, cuts)
    count = max(1, round(len(images) / size))
    # Dealt like cards, so that every batch gets its share of pairs.
    deck = [handfuls[i] for i in generator.permutation(len(handfuls))]
    deck += [alone[i] for i in generator.permutation(len(alone))]
    for start in range(count):
        hand = deck[start::count]
        if hand:
            yield _related(graph, np.sort(np.concatenate(hand)))


def _related(graph: PairGraph, images: Indices) -> Batch:
    genuine = graph.genuine[images][:, images].toarray()
    family = graph.family[images]
    # Within a family what was set aside is not known, and only a label counts.
    apart = (family[:, None] != family[None, :]).astype(np.float32)
    impostor = np.maximum(apart, graph.different[images][:, images].toarray())
    return Batch(images, genuine, impostor)


def pair_batches(
    graph: PairGraph, images: Indices, pairs: int, generator: np.random.Generator
) -> Iterator[Batch]:
    """Deal every labelled pair out once, as the seed does; nothing is inferred.

    Args:
        graph: Holds the pairs.
        images: int64 [M]; pairs with an image outside are left out.
        pairs: Pairs a batch.
        generator: Of the order.
    """
    inside = np.flatnonzero(np.isin(graph.links, images).all(axis=1))
    order = generator.permutation(inside)
    for chosen in np.split(order, range(pairs, len(order), pairs)):
        distinct, place = np.unique(graph.links[chosen], return_inverse=True)
        couples = place.reshape(-1, 2)
        genuine, impostor = np.zeros((2, len(distinct), len(distinct)), np.float32)
        for (a, b), same, weight in zip(
            couples, graph.same[chosen], graph.weight[chosen], strict=True
        ):
            target = genuine if same else impostor
            target[a, b] = target[b, a] = weight
        yield Batch(distinct, genuine, impostor)
