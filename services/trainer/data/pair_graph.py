"""Labelled pairs as a graph of images: identities, contradictions, and splits by identity."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, dijkstra

from services.trainer.data.arrays import IndexArray
from services.trainer.data.labels import LabelledPair

# Largest weight in the closure: scipy takes an edge of cost 0, which is -log(1), for no edge.
_MAX_WEIGHT = 1 - 1e-6
_MIN_WEIGHT = 1e-6


@dataclass(frozen=True)
class PairGraph:
    """Labelled pairs as links between images.

    Attributes:
        images: SHA-256 of each of the N images.
        links: int64 [P, 2], positions of the two images of each pair that is used.
        same: bool [P], the labels.
        weight: float32 [P], weight of each label, 0..1.
        person: int64 [N], the identity of each image by the labels that are used.
        component: int64 [N], connected component over all SAME labels, contradictory ones
            included. All images of a component must stay on one side of a split.
        genuine: float32 [N, N], symmetric, empty diagonal: transitive closure of the SAME
            labels. The weight of a pair is the product of the label weights along the best
            path between its images.
        different: float32 [N, N], symmetric: weights of the DIFFERENT labels.
        burst: int64 [N], the burst of near-identical pictures that each image belongs to.
        excluded: Pairs that are not used because they contradict others.
    """

    images: tuple[str, ...]
    links: IndexArray
    same: NDArray[np.bool_]
    weight: NDArray[np.float32]
    person: IndexArray
    component: IndexArray
    genuine: csr_array
    different: csr_array
    burst: IndexArray
    excluded: tuple[LabelledPair, ...]


def build_graph(
    images: Sequence[str], pairs: Iterable[LabelledPair], burst: IndexArray | None = None
) -> PairGraph:
    """Build the graph of labelled pairs without contradictions.

    A contradiction is a DIFFERENT label between two images that SAME labels connect. The
    labels of the lowest weight on that cycle are excluded: all labels of the cycle if they
    have the same weight.

    Args:
        images: SHA-256 of the N images that can be used.
        pairs: Labelled pairs; those with any other image are left out.
        burst: int64 [N], see `influence.find_bursts`; None if no images are near-identical.
    """
    usable = usable_pairs(images, pairs)
    links = links_of(images, usable)
    same = np.array([pair.same for pair in usable], np.bool_)
    weight = np.array([pair.confidence for pair in usable], np.float32)
    used = _without_contradictions(len(images), links, same, weight)
    person = components(len(images), links[used & same])
    return PairGraph(
        images=tuple(images),
        links=links[used],
        same=same[used],
        weight=weight[used],
        person=person,
        component=components(len(images), links[same]),
        genuine=_closure(len(images), links[used & same], weight[used & same], person),
        different=_symmetric(len(images), links[used & ~same], weight[used & ~same]),
        burst=np.arange(len(images)) if burst is None else burst,
        excluded=tuple(pair for pair, is_used in zip(usable, used, strict=True) if not is_used),
    )


def usable_pairs(images: Sequence[str], pairs: Iterable[LabelledPair]) -> tuple[LabelledPair, ...]:
    """Return the pairs with both images among `images`, in their order."""
    known = set(images)
    return tuple(pair for pair in pairs if {pair.sha256_a, pair.sha256_b} <= known)


def links_of(images: Sequence[str], pairs: Iterable[LabelledPair]) -> IndexArray:
    """Return the positions of each pair's images in `images`, int64 [P, 2].

    Every image of the pairs must be in `images`.
    """
    position = {sha256: index for index, sha256 in enumerate(images)}
    links = [(position[pair.sha256_a], position[pair.sha256_b]) for pair in pairs]
    return np.array(links, np.int64).reshape(-1, 2)


def group_by(images: IndexArray, key: IndexArray) -> list[IndexArray]:
    """Group images by their key, in the order of the keys.

    Args:
        images: int64 [M], indices into `key`.
        key: int64 [N], for instance `PairGraph.person`.
    """
    ordered = images[np.argsort(key[images], kind="stable")]
    bounds = np.flatnonzero(np.diff(key[ordered])) + 1
    return np.split(ordered, bounds) if len(ordered) else []


def _adjacency(size: int, links: IndexArray) -> csr_array:
    ones = np.ones(len(links), np.float32)
    return csr_array(coo_array((ones, (links[:, 0], links[:, 1])), shape=(size, size)))


def _symmetric(size: int, links: IndexArray, weight: NDArray[np.float32]) -> csr_array:
    first, second = links.T
    entries = (np.concatenate([first, second]), np.concatenate([second, first]))
    return csr_array(coo_array((np.tile(weight, 2), entries), shape=(size, size)))


def components(size: int, links: IndexArray) -> IndexArray:
    """Number the connected components, int64 [N].

    Args:
        size: Number of images N.
        links: int64 [P, 2], positions of the two images of each link.
    """
    _, component = connected_components(_adjacency(size, links), directed=False)
    return component.astype(np.int64)


def _without_contradictions(
    size: int, links: IndexArray, same: NDArray[np.bool_], weight: NDArray[np.float32]
) -> NDArray[np.bool_]:
    """Mark the pairs to use, bool [P], so that no contradiction is left."""
    used = np.ones(len(links), np.bool_)
    between = {frozenset(link): index for index, link in enumerate(links.tolist())}
    while True:
        person = components(size, links[used & same])
        first, second = person[links].T
        conflicts = np.flatnonzero(used & ~same & (first == second))
        if not len(conflicts):
            return used
        graph = _adjacency(size, links[used & same])
        for conflict in conflicts:
            path = _path(graph, *links[conflict])
            cycle = np.array([conflict, *(between[frozenset(edge)] for edge in path)])
            if used[cycle].all():
                used[cycle[weight[cycle] <= weight[cycle].min()]] = False


def _path(graph: csr_array, start: int, end: int) -> list[tuple[int, int]]:
    """Return the edges of a shortest path, from its end."""
    _, predecessors = breadth_first_order(graph, start, directed=False)
    edges = []
    while end != start:
        edges.append((int(predecessors[end]), int(end)))
        end = predecessors[end]
    return edges


def _closure(
    size: int, links: IndexArray, weight: NDArray[np.float32], person: IndexArray
) -> csr_array:
    cost = -np.log(np.clip(weight, _MIN_WEIGHT, _MAX_WEIGHT)).astype(np.float64)
    costs = csr_array(coo_array((cost, (links[:, 0], links[:, 1])), shape=(size, size)))
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    weights = [np.empty(0, np.float32)]
    for members in group_by(np.arange(size), person):
        if len(members) > 1:
            best = np.exp(-dijkstra(costs[members][:, members], directed=False))
            off_diagonal = ~np.eye(len(members), dtype=np.bool_)
            rows.append(np.repeat(members, len(members) - 1))
            columns.append(np.broadcast_to(members, off_diagonal.shape)[off_diagonal])
            weights.append(best[off_diagonal].astype(np.float32))
    entries = (np.concatenate(rows), np.concatenate(columns))
    return csr_array(coo_array((np.concatenate(weights), entries), shape=(size, size)))
