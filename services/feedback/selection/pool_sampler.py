"""Looks at a sample of the embedded pool through pgvector."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from services.feedback.pool import queries as embedding_queries
from services.feedback.pool.index_versions import IndexVersion
from services.feedback.selection import queries
from services.feedback.selection.match_probability import MatchProbability, prior_match_probability
from services.feedback.selection.strategies import Pair, PoolView, IndexArray, FloatArray
from shared.storage.postgres import Pool, fetch

_NEIGHBOURS: Final = 20
_ANCHORS: Final = 100
_LABELLED: Final = 250
# Keeps one query far below the time that a statement may take.
_LOOKED_UP_AT_ONCE: Final = 50
_POINT_BYTES: Final = 32

# The nearest neighbours of images by hash, with their similarities.
Near = dict[bytes, list[tuple[bytes, float]]]


@dataclass(frozen=True, slots=True)
class Sample:
    """A part of the pool, with the belief that the labels so far give.

    Attributes:
        hashes: Of the N images of the view.
        known: Pairs of the view that are labelled or wait to be.
    """

    hashes: list[bytes]
    view: PoolView
    belief: MatchProbability
    known: set[Pair]


def random_points(rng: np.random.Generator, count: int) -> list[bytes]:
    """Draw points among all SHA-256 hashes."""
    return [rng.bytes(_POINT_BYTES) for _ in range(count)]


class PoolSampler:
    """Draws samples of the pool: random images, their neighbours, and theirs.

    Args:
        pool: Connections to a database with the schema `feedback`.
        rng: Draws the images.
    """

    def __init__(self, pool: Pool, rng: np.random.Generator) -> None:
        self._fetch = partial(fetch, pool)
        self._rng = rng

    async def sample(self, version: IndexVersion, other: IndexVersion | None = None) -> Sample:
        """Look at some of the pool.

        Args:
            version: By whose embeddings.
            other: Another version to say how likely the links are genuine.
        """
        drawn = await self._fetch(
            embedding_queries.random_embedded(version.version_id),
            {"points": random_points(self._rng, _ANCHORS)},
        )
        near = await self._near(version, [sha256 for (sha256,) in drawn])
        around = {neighbour for own in near.values() for neighbour, _ in own} - set(near)
        near |= await self._near(version, around)
        hashes = sorted(near)
        view = await self._view(version, hashes, near)
        belief = await self._belief(version, view.csls(), near)
        if other is not None:
            view = replace(view, other=await self._by_other(other, hashes, view.links))
        return Sample(hashes, view, belief, await self._known(hashes))

    async def _near(self, version: IndexVersion, hashes: Collection[bytes]) -> Near:
        query = embedding_queries.neighbours(version.version_id, version.dimensions)
        near: Near = {sha256: [] for sha256 in hashes}
        ordered = sorted(near)
        for first in range(0, len(ordered), _LOOKED_UP_AT_ONCE):
            anchors = ordered[first : first + _LOOKED_UP_AT_ONCE]
            for anchor, neighbour, similarity in await self._fetch(
                query, {"anchors": anchors, "count": _NEIGHBOURS}
            ):
                near[anchor].append((neighbour, similarity))
        return near

    async def _view(self, version: IndexVersion, hashes: list[bytes], near: Near) -> PoolView:
        places = {sha256: place for place, sha256 in enumerate(hashes)}
        links = [
            (places[anchor], places[neighbour], similarity)
            for anchor in hashes
            for neighbour, similarity in near[anchor]
            if neighbour in places
        ]
        wanted = {"hashes": hashes}
        quality: dict[bytes, float] = dict(
            await self._fetch(embedding_queries.qualities(version.version_id), wanted)
        )
        subjects: dict[bytes, str] = dict(await self._fetch(queries.SUBJECTS, wanted))
        numbers = {subject: place for place, subject in enumerate(sorted(set(subjects.values())))}
        return PoolView(
            quality=np.array([quality.get(sha256, 0.0) for sha256 in hashes], np.float64),
            density=_densities(hashes, near),
            links=np.array([link[:2] for link in links], np.int64).reshape(-1, 2),
            similarity=np.array([link[2] for link in links], np.float64),
            persons=np.array(
                [numbers.get(subjects.get(sha256, ""), -1) for sha256 in hashes], np.int64
            ),
        )

    async def _belief(self, version: IndexVersion, csls: FloatArray, near: Near) -> MatchProbability:
        """What labels of this pool, wherever in it, say of how a version's links stand out."""
        belief = prior_match_probability(version.calibration, csls)
        rows = await self._fetch(queries.LATEST_LABELLED, {"limit": _LABELLED})
        labels = {(a, b): same for a, b, same in rows}
        found = await self._similarities(version, labels)
        if not found:
            return belief
        pairs = list(found)
        images = {sha256 for pair in pairs for sha256 in pair}
        near = near | await self._near(version, images - set(near))
        density = np.array([_densities(pair, near).mean() for pair in pairs])
        similarity = np.array([found[pair] for pair in pairs])
        same = np.array([labels[pair] for pair in pairs], np.bool_)
        return belief.learn(similarity, similarity - density, same)

    async def _by_other(self, other: IndexVersion, hashes: list[bytes], links: IndexArray) -> FloatArray:
        """How likely links are genuine by another version; as unlikely where it has none."""
        near = await self._near(other, hashes)
        density = _densities(hashes, near)
        pairs = [(hashes[a], hashes[b]) for a, b in links.tolist()]
        found = await self._similarities(other, pairs)
        similarity = np.array([found.get(pair, 0.0) for pair in pairs], np.float64)
        csls = similarity - density[links].mean(axis=1)
        # From the same labels as the version itself: the two are to differ in what they see.
        belief = await self._belief(other, csls, near)
        return belief.probability(similarity, csls)

    async def _similarities(
        self, version: IndexVersion, pairs: Iterable[tuple[bytes, bytes]]
    ) -> dict[tuple[bytes, bytes], float]:
        listed = list(pairs)
        sides = {"a": [a for a, _ in listed], "b": [b for _, b in listed]}
        rows = await self._fetch(embedding_queries.similarities(version.version_id), sides)
        return {(a, b): similarity for a, b, similarity in rows}

    async def _known(self, hashes: list[bytes]) -> set[Pair]:
        places = {sha256: place for place, sha256 in enumerate(hashes)}
        wanted = {"hashes": hashes}
        rows = await self._fetch(queries.LABELLED_AMONG, wanted)
        rows += await self._fetch(queries.OPEN_PAIRS, wanted)
        # Hashes are sorted, and so are the two of a pair.
        return {(places[a], places[b]) for a, b in rows if b in places}


def _densities(hashes: Iterable[bytes], near: Near) -> FloatArray:
    """Mean similarity of images to their neighbours; 0 for one that has none."""
    return np.array(
        [
            np.mean([similarity for _, similarity in near[sha256]]) if near.get(sha256) else 0.0
            for sha256 in hashes
        ],
        np.float64,
    )
