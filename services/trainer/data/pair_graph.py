"""The feedback as a graph of images: who is who, what contradicts itself, who is held out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra

from services.trainer.data.arrays import Indices
from services.trainer.data.labels import LabelledPair

# Nobody with more than this share of the images is held out.
_LARGEST_HELD_OUT = 0.1
_SURE = 1 - 1e-6


@dataclass(frozen=True)
class PairGraph:
    """Labelled pairs as links between images.

    Attributes:
        images: SHA-256 of each of the N images.
        links: int64 [P, 2], images of each pair that is used.
        same: bool [P].
        weight: float32 [P], how much each label is trusted, 0..1.
        person: int64 [N], images with the same number are the same person by the labels.
        family: int64 [N], the same, contradictory labels included: people who must stay
            on one side of a split.
        genuine: float32 [N, N], symmetric: trust that two images are the same person, the
            product of the labels' weights along the best path between them. Holds the
            transitive closure; an empty diagonal.
        different: float32 [N, N], symmetric: weight of the labels that say two people.
        set_aside: Pairs that are not used because they contradict each other.
    """

    images: tuple[str, ...]
    links: Indices
    same: NDArray[np.bool_]
    weight: NDArray[np.float32]
    person: Indices
    family: Indices
    genuine: csr_array
    different: csr_array
    set_aside: tuple[LabelledPair, ...]


def build_graph(images: Sequence[str], pairs: Iterable[LabelledPair]) -> PairGraph:
    """Find people and contradictions.

    A contradiction is a DIFFERENT label between images that SAME labels connect. Of the
    labels on that circle the least trusted are set aside: all of them where none is
    less trusted than the others.

    Args:
        images: SHA-256 of the N images that can be used.
        pairs: Those with another image are left out.
    """
    listed = usable_pairs(images, pairs)
    links = links_of(images, listed)
    same = np.array([pair.same for pair in listed], np.bool_)
    weight = np.array([pair.confidence for pair in listed], np.float32)
    kept = _consistent(len(images), links, same, weight)
    person = _components(len(images), links[kept & same])
    return PairGraph(
        images=tuple(images),
        links=links[kept],
        same=same[kept],
        weight=weight[kept],
        person=person,
        family=_components(len(images), links[same]),
        genuine=_closure(len(images), links[kept & same], weight[kept & same], person),
        different=_symmetric(len(images), links[kept & ~same], weight[kept & ~same]),
        set_aside=tuple(pair for pair, keep in zip(listed, kept, strict=True) if not keep),
    )


def usable_pairs(images: Sequence[str], pairs: Iterable[LabelledPair]) -> tuple[LabelledPair, ...]:
    """The pairs whose images both are among `images`, in their order."""
    there = set(images)
    return tuple(pair for pair in pairs if {pair.sha256_a, pair.sha256_b} <= there)


def links_of(images: Sequence[str], pairs: Iterable[LabelledPair]) -> Indices:
    """Places of each pair's two images among `images`, which holds them all: int64 [P, 2]."""
    number = {sha256: index for index, sha256 in enumerate(images)}
    links = [(number[pair.sha256_a], number[pair.sha256_b]) for pair in pairs]
    return np.array(links, np.int64).reshape(-1, 2)


def _adjacency(size: int, links: Indices) -> csr_array:
    ones = np.ones(len(links), np.float32)
    return csr_array(coo_array((ones, (links[:, 0], links[:, 1])), shape=(size, size)))


def _symmetric(size: int, links: Indices, weight: NDArray[np.float32]) -> csr_array:
    first, second = links.T
    entries = (np.concatenate([first, second]), np.concatenate([second, first]))
    return csr_array(coo_array((np.tile(weight, 2), entries), shape=(size, size)))


def _components(size: int, links: Indices) -> Indices:
    _, component = connected_components(_adjacency(size, links), directed=False)
    return component.astype(np.int64)


def _consistent(
    size: int, links: Indices, same: NDArray[np.bool_], weight: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Which of the pairs to keep so that no contradiction is left."""
    kept = np.ones(len(links), np.bool_)
    between = {frozenset(link): index for index, link in enumerate(links.tolist())}
    while True:
        person = _components(size, links[kept & same])
        first, second = person[links].T
        conflicts = np.flatnonzero(kept & ~same & (first == second))
        if not len(conflicts):
            return kept
        graph = _adjacency(size, links[kept & same])
        for conflict in conflicts:
            path = _path(graph, *links[conflict])
            circle = np.array([conflict, *(between[frozenset(step)] for step in path)])
            if kept[circle].all():
                kept[circle[weight[circle] <= weight[circle].min()]] = False


def _path(graph: csr_array, start: int, end: int) -> list[tuple[int, int]]:
    _, before = breadth_first_order(graph, start, directed=False)
    steps = []
    while end != start:
        steps.append((int(before[end]), int(end)))
        end = before[end]
    return steps


def _closure(size: int, links: Indices, weight: NDArray[np.float32], person: Indices) -> csr_array:
    # scipy takes a cost of 0 for no link at all.
    cost = -np.log(np.clip(weight, 1e-6, _SURE)).astype(np.float64)
    costs = csr_array(coo_array((cost, (links[:, 0], links[:, 1])), shape=(size, size)))
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    trusts = [np.empty(0, np.float32)]
    for members in groups(np.arange(size), person):
        if len(members) > 1:
            trust = np.exp(-dijkstra(costs[members][:, members], directed=False))
            apart = ~np.eye(len(members), dtype=np.bool_)
            rows.append(np.repeat(members, len(members) - 1))
            columns.append(np.broadcast_to(members, apart.shape)[apart])
            trusts.append(trust[apart].astype(np.float32))
    entries = (np.concatenate(rows), np.concatenate(columns))
    return csr_array(coo_array((np.concatenate(trusts), entries), shape=(size, size)))


def groups(images: Indices, key: Indices) -> list[Indices]:
    """Sort images into those with the same key, in the order of the keys.

    Args:
        images: int64 [M], indices into `key`.
        key: int64 [N], for instance `PairGraph.person`.
    """
    ordered = images[np.argsort(key[images], kind="stable")]
    starts = np.flatnonzero(np.diff(key[ordered])) + 1
    return np.split(ordered, starts) if len(ordered) else []


def split_people(graph: PairGraph, shares: Sequence[float], seed: int) -> list[Indices]:
    """Split the images so that no image and no person is on two sides.

    People with several images and people with one are dealt out separately, so that every
    side gets its share of genuine pairs. People with very many images stay on the first side.

    Args:
        graph: What to split.
        shares: Of the people, for every side but the first, which takes the rest.
        seed: Of the order in which people are dealt out.

    Returns:
        Sorted image numbers of each side, one more than there are shares.
    """
    generator = np.random.default_rng(seed)
    families = groups(np.arange(len(graph.images)), graph.family)
    largest = _LARGEST_HELD_OUT * len(graph.images)
    sides: list[list[Indices]] = [[] for _ in range(len(shares) + 1)]
    sides[0] += [family for family in families if len(family) > max(largest, 1)]
    paired = [family for family in families if 1 < len(family) <= largest]
    alone = [family for family in families if len(family) == 1]
    for some in (paired, alone):
        order = generator.permutation(len(some))
        ends = np.floor(np.cumsum(shares) * len(some)).astype(int)
        for side, chosen in enumerate(np.split(order, ends), 1):
            sides[side % len(sides)] += [some[index] for index in chosen]
    return [np.sort(np.concatenate(side or [np.empty(0, np.int64)])) for side in sides]
