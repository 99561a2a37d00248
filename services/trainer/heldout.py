"""The pairs that versions are measured on: of people who are not trained on."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.trainer.pairgraph import Indices, PairGraph, groups

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
