"""Influence of one person and of one burst of near-identical pictures, and its limits.

Whoever labels four hundred frames of a video says little more than who labels two. A *burst* is a
set of near-identical pictures of one person. Pairs between the same two bursts count as one, and
the pairs of one person as at most ten.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from services.trainer.data.arrays import CropArray, IndexArray
from services.trainer.data.left_out import LeftOutImage, LeftOutReason
from services.trainer.data.pair_graph import components, group_by
from shared.model.image.perceptual_hash import near_duplicates, perceptual_hash

# Most pairs of one person that count, of each label.
PAIRS_PER_PERSON = 10
# Images of one person that are compared with all others of theirs at once.
_ROWS = 256


def find_bursts(crops: CropArray, links: IndexArray) -> IndexArray:
    """Number the bursts of near-identical pictures among images that labels connect.

    Only images that labels SAME connect are compared, so two people are never in one burst.

    Args:
        crops: uint8 [N, 112, 112, 3], BGR.
        links: int64 [P, 2], positions of the images of each label SAME.

    Returns:
        The burst of each image, int64 [N]. Most images are the only one of theirs.
    """
    hashes = np.array([np.frombuffer(perceptual_hash(crop), np.uint8) for crop in crops])
    burst = np.arange(len(crops))
    for members in group_by(np.arange(len(crops)), components(len(crops), links)):
        if len(members) == 1:
            continue
        for first in range(0, len(members), _ROWS):
            some = members[first : first + _ROWS]
            rows, columns = np.nonzero(near_duplicates(hashes[some], hashes[members]))
            burst[members] = _joined(burst[members], members, some[rows], members[columns])
    return burst


def _joined(
    burst: IndexArray, members: IndexArray, one: IndexArray, other: IndexArray
) -> IndexArray:
    """Join bursts, which are named by an image of theirs, by links between images of a person."""
    place = np.searchsorted(members, np.concatenate([members, one]))
    target = np.searchsorted(members, np.concatenate([burst, other]))
    joined = components(len(members), np.stack([place, target], axis=1))
    _, named_by, number = np.unique(joined, return_index=True, return_inverse=True)
    return members[named_by[number]]


def pair_weights(
    links: IndexArray, same: NDArray[np.bool_], person: IndexArray, burst: IndexArray
) -> NDArray[np.float64]:
    """Weight labelled pairs so that no person and no burst outweighs the others, float64 [P].

    Args:
        links: int64 [P, 2], positions of the images.
        same: bool [P], the labels.
        person: int64 [N], the person on each image.
        burst: int64 [N], burst of each image.
    """
    weight = np.ones(len(links))
    for label in (same, ~same):
        chosen = np.flatnonzero(label)
        ends = np.sort(burst[links[chosen]], axis=1)
        _, cell, count = np.unique(ends, axis=0, return_inverse=True, return_counts=True)
        once = 1 / count[cell.ravel()]
        people = person[links[chosen]]
        # A pair within a person is one pair of theirs, not two.
        second = np.where(people[:, 0] == people[:, 1], 0, once)
        total = np.bincount(people[:, 0], once, len(burst))
        total += np.bincount(people[:, 1], second, len(burst))
        most = np.maximum(total[people].max(axis=1, initial=0), PAIRS_PER_PERSON)
        weight[chosen] = once * PAIRS_PER_PERSON / most
    return weight


def one_of_each(pairs: IndexArray, burst: IndexArray) -> IndexArray:
    """Keep the first pair between each two bursts, and none within a burst.

    Args:
        pairs: int64 [P, 2], positions of images; all of one label.
        burst: int64 [N], burst of each image.
    """
    return pairs[distinct_pairs(pairs, np.ones(len(pairs), np.bool_), burst)]


def distinct_pairs(links: IndexArray, same: NDArray[np.bool_], burst: IndexArray) -> IndexArray:
    """Return which labelled pairs to measure on, so that no picture counts twice, int64 [M].

    Of the pairs of one label between the same two bursts it is the first, and none within a burst.

    Args:
        links: int64 [P, 2], positions of the images.
        same: bool [P], the labels.
        burst: int64 [N], burst of each image.
    """
    ends = np.sort(burst[links], axis=1)
    _, first = np.unique(np.column_stack([ends, same]), axis=0, return_index=True)
    kept = np.sort(first)
    return np.asarray(kept[ends[kept, 0] != ends[kept, 1]])


def sample_images(
    images: IndexArray,
    burst: IndexArray,
    generator: np.random.Generator,
    *,
    of_burst: int,
    at_most: int,
) -> IndexArray:
    """Draw images of one person, of each burst and in all at most so many, in random order.

    Args:
        images: int64 [M], positions of the images.
        burst: int64 [N], burst of each image.
        generator: Draws them.
        of_burst: Most images of a burst.
        at_most: Most images in all.
    """
    shuffled = generator.permutation(images)
    order = np.argsort(burst[shuffled], kind="stable")
    of_each = np.unique(burst[shuffled], return_counts=True)[1]
    place = np.empty(len(shuffled), np.int64)
    place[order] = np.arange(len(order)) - np.repeat(np.cumsum(of_each) - of_each, of_each)
    return shuffled[place < of_burst][:at_most]


def describe_bursts(images: Sequence[str], burst: IndexArray) -> tuple[LeftOutImage, ...]:
    """List the images that are near-identical to an earlier one of the same person."""
    first: dict[int, str] = {}
    repeated = []
    for sha256, number in zip(images, burst.tolist(), strict=True):
        original = first.setdefault(number, sha256)
        if original != sha256:
            detail = f"near-identical to {original[:8]}… of the same person"
            repeated.append(LeftOutImage(sha256, LeftOutReason.NEAR_DUPLICATE, detail))
    return tuple(repeated)
