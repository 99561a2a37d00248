"""Seeded sampling of labelled pairs, half of them genuine, from images of people."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.datasets.folder import split_identities
from shared.datasets.pairs import PairSet, renumber
from shared.errors import InvalidInput

# Candidates for hard impostor pairs, as a multiple of the pairs needed.
_HARD_POOL: Final = 20

Similarity = Callable[[Sequence[Path], NDArray[np.int32]], NDArray[np.float32]]
"""From images and pairs of indices into them, (P, 2), to the similarity of each pair, (P,).

Each image is in one of the pairs. Pairs with an image that cannot be used have NaN; none of them is
sampled.
"""


@dataclass(frozen=True)
class SampleSize:
    """Size of a sample.

    Attributes:
        pairs: Total number of pairs, half of them genuine; one more genuine if it is odd.
        identities: Number of people; all who have at least two images when None.
        images: Images of each person. People who have that many are preferred; of others, who
            have at least two, all images are taken. All images of all people when None.
    """

    pairs: int
    identities: int | None = None
    images: int | None = None

    def __post_init__(self) -> None:
        if self.pairs < 2:
            raise InvalidInput("pairs", f"is {self.pairs}; both kinds of pair need at least 2")
        if self.identities is not None and self.identities < 2:
            raise InvalidInput("identities", f"is {self.identities}; impostors need at least 2")
        if self.images is not None and self.images < 2:
            raise InvalidInput("images", f"is {self.images}; genuine pairs need at least 2")


@dataclass(frozen=True)
class HardPairs:
    """Request for pairs that are hard for a model.

    Attributes:
        similarity: Similarities by that model; called once with all candidates.
        share: Share of the pairs that are the hardest candidates, 0..1; the other pairs are
            sampled at random.
    """

    similarity: Similarity
    share: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.share <= 1.0:
            raise InvalidInput("share", f"is {self.share}; it lies between 0 and 1")


def sample_pairs(
    identities: Mapping[str, Sequence[Path]],
    size: SampleSize,
    seed: int,
    hard: HardPairs | None = None,
) -> PairSet:
    """Sample people, images of them, and pairs of these images.

    No pair occurs twice, and none has the same image twice. Genuine pairs are taken from one
    person after the other in turn, so that people with many images do not dominate.

    Args:
        identities: Images of each person.
        size: Size of the sample.
        seed: The same people, size and seed give the same set.
        hard: Prefers pairs that are hard for a model.

    Raises:
        InvalidInput: If there are not enough people or pairs.
    """
    rng = np.random.default_rng(seed)
    chosen = _choose_images(identities, size, rng)
    images = tuple(image for files in chosen.values() for image in files)
    people = np.repeat(np.arange(len(chosen)), [len(files) for files in chosen.values()])
    genuine = _genuine_pairs(people, rng)
    impostor_count, genuine_count = size.pairs // 2, size.pairs - size.pairs // 2
    pool = impostor_count * (_HARD_POOL if hard else 1)
    impostor = impostor_pairs(people, pool, len(genuine), rng)
    if hard:
        similarity = hard.similarity(images, np.concatenate([genuine, impostor]))
        among_genuine, among_impostor = similarity[: len(genuine)], similarity[len(genuine) :]
        genuine = _hard_first(genuine, -among_genuine, genuine_count, hard)
        impostor = _hard_first(impostor, among_impostor, impostor_count, hard)
    _check_enough("genuine", genuine_count, len(genuine))
    _check_enough("impostor", impostor_count, len(impostor))
    pairs = np.concatenate([genuine[:genuine_count], impostor[:impostor_count]])
    order = rng.permutation(len(pairs))
    names = list(chosen)
    used, pairs = renumber(pairs[order])
    return PairSet(
        images=tuple(images[place] for place in used),
        pairs=pairs,
        labels=(order < genuine_count),
        identities=tuple(names[people[place]] for place in used),
    )


def sample_splits(
    identities: Mapping[str, Sequence[Path]],
    sizes: Mapping[str, SampleSize],
    seed: int,
    hard: HardPairs | None = None,
) -> dict[str, PairSet]:
    """Sample one set of pairs for each named split; no person is in two of them.

    Args:
        identities: Images of each person.
        sizes: Size of each split; the number of identities is required.
        seed: The same people, sizes and seed give the same sets.
        hard: Prefers pairs that are hard for a model.

    Raises:
        InvalidInput: If there are not enough people or pairs, or a split has no number of
            identities.
    """
    counts = {}
    for split, size in sizes.items():
        if size.identities is None:
            raise InvalidInput(f"{split}.identities", "is not set; a split needs a number")
        counts[split] = size.identities
    images = max((size.images or 2 for size in sizes.values()), default=2)
    rng = np.random.default_rng(seed)
    splits = split_identities(
        _choose_people(identities, sum(counts.values()), images, rng), counts, seed
    )
    return {
        split: sample_pairs({name: identities[name] for name in splits[split]}, size, seed, hard)
        for split, size in sizes.items()
    }


def _choose_people(
    identities: Mapping[str, Sequence[Path]],
    wanted: int | None,
    images: int,
    rng: np.random.Generator,
) -> list[str]:
    """Return the sorted names of `wanted` people (None: all) with two images or more."""
    names = sorted(name for name, files in identities.items() if len(files) > 1)
    if len(names) < max(wanted or 2, 2):
        raise InvalidInput(
            "identities", f"asks for {wanted or 2}; {len(names)} people have two images or more"
        )
    names = [names[place] for place in rng.permutation(len(names))]
    names.sort(key=lambda name: -min(len(identities[name]), images))
    return sorted(names[:wanted])


def _choose_images(
    identities: Mapping[str, Sequence[Path]], size: SampleSize, rng: np.random.Generator
) -> dict[str, list[Path]]:
    chosen = {}
    for name in _choose_people(identities, size.identities, size.images or 2, rng):
        files = sorted(identities[name])
        count = len(files) if size.images is None else min(size.images, len(files))
        images = sorted(rng.choice(len(files), count, replace=False).tolist())
        chosen[name] = [files[image] for image in images]
    return chosen


def _genuine_pairs(people: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int32]:
    """Return all genuine pairs; the first of each person comes before the second of any person."""
    pairs: list[tuple[int, int]] = []
    turns: list[int] = []
    for person in range(int(people.max()) + 1):
        own = list(combinations(np.flatnonzero(people == person).tolist(), 2))
        pairs.extend(own[place] for place in rng.permutation(len(own)))
        turns.extend(range(len(own)))
    # The order within a turn is random; otherwise a small set would have the first names only.
    order = np.lexsort((rng.permutation(len(pairs)), np.array(turns)))
    return np.array(pairs, dtype=np.int32)[order]


def impostor_pairs(
    people: NDArray[np.int64], wanted: int, genuine_count: int, rng: np.random.Generator
) -> NDArray[np.int32]:
    """Return distinct impostor pairs, uniformly sampled, in random order.

    Args:
        people: (N,), the person on each image.
        wanted: Most pairs.
        genuine_count: Number of genuine pairs of these images.
        rng: Draws the pairs.

    Returns:
        (P, 2), indices of images.
    """
    count = len(people)
    total = count * (count - 1) // 2
    # At most genuine_count of the drawn pairs are genuine, so enough impostor pairs remain.
    drawn = rng.choice(total, min(total, wanted + genuine_count), replace=False)
    # Pair k of the strict upper triangle, row by row.
    rows = np.concatenate([[0], np.cumsum(np.arange(count - 1, 0, -1))])
    first = np.searchsorted(rows, drawn, side="right") - 1
    second = drawn - rows[first] + first + 1
    different = np.flatnonzero(people[first] != people[second])[:wanted]
    pairs = np.stack([first[different], second[different]], axis=1)
    return pairs.astype(np.int32)


def _hard_first(
    pairs: NDArray[np.int32], hardness: NDArray[np.float32], count: int, hard: HardPairs
) -> NDArray[np.int32]:
    """Move the requested share of the hardest pairs to the front; the others keep their order.

    Pairs whose hardness is NaN are left out.
    """
    known = ~np.isnan(hardness)
    pairs, hardness = pairs[known], hardness[known]
    hardest = np.argsort(-hardness, kind="stable")[: round(count * hard.share)]
    others = np.ones(len(pairs), dtype=np.bool_)
    others[hardest] = False
    return np.concatenate([pairs[hardest], pairs[others]])


def _check_enough(kind: str, wanted: int, there: int) -> None:
    if wanted > there:
        raise InvalidInput(
            "pairs",
            f"asks for {wanted} {kind} pairs; these people and images give {there}: "
            "ask for fewer, or take more identities or more images of each",
        )
