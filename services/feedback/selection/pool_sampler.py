"""Pool sampler: reads a part of the embedded pool with its nearest neighbours from pgvector."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.pool import queries as pool_queries
from services.feedback.pool.index_versions import IndexVersion
from services.feedback.selection import queries
from services.feedback.selection.match_probability import (
    MatchProbability,
    prior_match_probability,
)
from services.feedback.selection.strategies import Pair, PoolView
from shared.storage.postgres import Pool, fetch

_NEIGHBOURS: Final = 20
_ANCHORS: Final = 100
_LABELLED: Final = 250
# Keeps a query far below the statement timeout.
_ANCHORS_PER_QUERY: Final = 50
_POINT_BYTES: Final = 32

# The nearest neighbours of images with their similarities, by hash.
Neighbours = dict[bytes, list[tuple[bytes, float]]]


@dataclass(frozen=True, slots=True)
class PoolSample:
    """A part of the pool, with the match probability fitted to the labels so far.

    Attributes:
        hashes: SHA-256 of the N images of the view.
        known: Pairs of the view that are labelled or in the candidate queue.
    """

    hashes: list[bytes]
    view: PoolView
    model: MatchProbability
    known: set[Pair]


def random_points(rng: np.random.Generator, count: int) -> list[bytes]:
    """Draw points of the hash space, 32 bytes each."""
    return [rng.bytes(_POINT_BYTES) for _ in range(count)]


class PoolSampler:
    """Samples random images, their neighbours, and the neighbours of these.

    Args:
        pool: Connections to a database with the schema `feedback`.
        rng: Draws the images.
    """

    def __init__(self, pool: Pool, rng: np.random.Generator) -> None:
        self._fetch = partial(fetch, pool)
        self._rng = rng

    async def sample(self, version: IndexVersion, other: IndexVersion | None = None) -> PoolSample:
        """Sample the pool.

        Args:
            version: Whose embeddings are used.
            other: Another version, for the probability of the links by it.

        Raises:
            Unavailable: If the database does not answer.
        """
        anchors = await self._fetch(
            pool_queries.random_embedded(version.version_id),
            {"points": random_points(self._rng, _ANCHORS)},
        )
        near = await self._neighbours(version, [sha256 for (sha256,) in anchors])
        around = {neighbour for own in near.values() for neighbour, _ in own} - set(near)
        near |= await self._neighbours(version, around)
        hashes = sorted(near)
        view = await self._view(version, hashes, near)
        model = await self._fitted(version, view.csls(), near)
        if other is not None:
            probability = await self._probability_by(other, hashes, view.links)
            view = replace(view, other_probability=probability)
        return PoolSample(hashes, view, model, await self._known(hashes))

    async def _neighbours(self, version: IndexVersion, hashes: Collection[bytes]) -> Neighbours:
        query = pool_queries.neighbours(version.version_id, version.dimensions)
        near: Neighbours = {sha256: [] for sha256 in hashes}
        ordered = sorted(near)
        for first in range(0, len(ordered), _ANCHORS_PER_QUERY):
            anchors = ordered[first : first + _ANCHORS_PER_QUERY]
            for anchor, neighbour, similarity in await self._fetch(
                query, {"anchors": anchors, "count": _NEIGHBOURS}
            ):
                near[anchor].append((neighbour, similarity))
        return near

    async def _view(self, version: IndexVersion, hashes: list[bytes], near: Neighbours) -> PoolView:
        numbers = {sha256: number for number, sha256 in enumerate(hashes)}
        links = [
            (numbers[anchor], numbers[neighbour], similarity)
            for anchor in hashes
            for neighbour, similarity in near[anchor]
            if neighbour in numbers
        ]
        quality: dict[bytes, float] = dict(
            await self._fetch(pool_queries.qualities(version.version_id), {"hashes": hashes})
        )
        return PoolView(
            quality=np.array([quality.get(sha256, 0.0) for sha256 in hashes], np.float64),
            neighbour_mean=_neighbour_means(hashes, near),
            links=np.array([link[:2] for link in links], np.int64).reshape(-1, 2),
            similarity=np.array([link[2] for link in links], np.float64),
            persons=await self._persons(hashes),
        )

    async def _persons(self, hashes: list[bytes]) -> NDArray[np.int64]:
        """Number the persons that the images show: int64 [N], -1 if unknown."""
        subjects: dict[bytes, str] = dict(await self._fetch(queries.SUBJECTS, {"hashes": hashes}))
        numbers = {subject: number for number, subject in enumerate(sorted(set(subjects.values())))}
        return np.array([numbers.get(subjects.get(sha256, ""), -1) for sha256 in hashes], np.int64)

    async def _fitted(
        self, version: IndexVersion, csls: NDArray[np.float64], near: Neighbours
    ) -> MatchProbability:
        """Fit the match probability of a version to the latest labels of the whole pool."""
        prior = prior_match_probability(version.calibration, csls)
        rows = await self._fetch(queries.LATEST_LABELLED, {"limit": _LABELLED})
        labels = {(a, b): same for a, b, same in rows}
        similarities = await self._similarities(version, labels)
        if not similarities:
            return prior
        pairs = list(similarities)
        images = {sha256 for pair in pairs for sha256 in pair}
        near = near | await self._neighbours(version, images - set(near))
        means = np.array([_neighbour_means(pair, near).mean() for pair in pairs])
        similarity = np.array([similarities[pair] for pair in pairs])
        same = np.array([labels[pair] for pair in pairs], np.bool_)
        return prior.fit(similarity, similarity - means, same)

    async def _probability_by(
        self, other: IndexVersion, hashes: list[bytes], links: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Probability of links by another version: float [L]; an unembedded link is unlikely."""
        near = await self._neighbours(other, hashes)
        means = _neighbour_means(hashes, near)
        pairs = [(hashes[a], hashes[b]) for a, b in links.tolist()]
        similarities = await self._similarities(other, pairs)
        similarity = np.array([similarities.get(pair, 0.0) for pair in pairs], np.float64)
        csls = similarity - means[links].mean(axis=1)
        # Fitted to the same labels as the version itself, so that only the embeddings differ.
        model = await self._fitted(other, csls, near)
        return model.probability(similarity, csls)

    async def _similarities(
        self, version: IndexVersion, pairs: Iterable[tuple[bytes, bytes]]
    ) -> dict[tuple[bytes, bytes], float]:
        listed = list(pairs)
        sides = {"a": [a for a, _ in listed], "b": [b for _, b in listed]}
        rows = await self._fetch(pool_queries.similarities(version.version_id), sides)
        return {(a, b): similarity for a, b, similarity in rows}

    async def _known(self, hashes: list[bytes]) -> set[Pair]:
        numbers = {sha256: number for number, sha256 in enumerate(hashes)}
        wanted = {"hashes": hashes}
        rows = await self._fetch(queries.LABELLED_AMONG, wanted)
        rows += await self._fetch(queries.OPEN_PAIRS, wanted)
        # The hashes are sorted, as are the two images of a pair.
        return {(numbers[a], numbers[b]) for a, b in rows if b in numbers}


def _neighbour_means(hashes: Iterable[bytes], near: Neighbours) -> NDArray[np.float64]:
    """Mean similarity of images to their neighbours: float [N]; 0 for an image without any."""
    return np.array(
        [
            np.mean([similarity for _, similarity in near[sha256]]) if near.get(sha256) else 0.0
            for sha256 in hashes
        ],
        np.float64,
    )
