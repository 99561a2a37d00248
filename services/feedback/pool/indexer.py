"""Keeps the pool embedded by the model version that serves."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.feedback.images.vault import ImageFacts, ImageVault, facts_from_row
from services.feedback.labels import queries
from services.feedback.pool import index_versions as pool_versions
from services.feedback.pool import queries as embedding_queries
from services.feedback.pool.embedder_client import EmbedderClient
from services.feedback.pool.index_versions import LeaderConnection, IndexVersion
from shared.errors import CorruptData, InvalidInput, PreconditionFailed
from shared.model.image.face_reader import FaceImage
from shared.model.manifest import ProbabilityCurve
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)

# As many as one batch of the embedder, so that live calls wait for no more than that.
_IMAGES_A_CALL: Final = 32
_PAGE: Final = 256
# Longer than a transaction that stores an image may take: its time is that of its beginning.
_OVERLAP: Final = timedelta(seconds=60)
_BEGINNING: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNUSABLE: Final = (InvalidInput, PreconditionFailed, CorruptData)

CurveOf = Callable[[str], Awaitable[ProbabilityCurve | None]]
Swapped = Callable[[IndexVersion], Awaitable[None]]


@dataclass(slots=True)
class _Walk:
    """How far the images of a version were looked at."""

    version_id: int
    after: datetime = _BEGINNING
    after_hash: bytes = b""


class PoolIndexer:
    """Embeds what is not embedded by the serving version, a page of images at a time.

    A row is stored under the version that the embedder's answer names and only if that is
    the one followed, so versions never mix. What is stored is found again after a crash.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Gives the bytes.
        embedder: Embeds them.
        curves: Gives a version's probability curve.
        swapped: Called when a version has become complete, while the one before is there.
    """

    def __init__(
        self,
        pool: Pool,
        vault: ImageVault,
        embedder: EmbedderClient,
        *,
        curves: CurveOf,
        swapped: Swapped,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._embedder = embedder
        self._curves = curves
        self._swapped = swapped
        self._walk = _Walk(0)

    async def step(self, lead: LeaderConnection) -> bool:
        """Embed one page of images, and complete the version where it was the last.

        Returns:
            Whether there may be more to do at once.

        Raises:
            MagFaceError: If a store or the embedder cannot answer; call again later.
        """
        model = await self._embedder.model()
        curve = await self._curves(model.model_version)
        version = await pool_versions.find_or_add(self._pool, lead, model, curve)
        if self._walk.version_id != version.version_id:
            self._walk = _Walk(version.version_id)
        page, missing = await self._next_page(version)
        for first in range(0, len(missing), _IMAGES_A_CALL):
            if not await self._embed(version, missing[first : first + _IMAGES_A_CALL]):
                return True  # another version serves by now: see which
        if page:
            self._walk.after, self._walk.after_hash = page[-1]
        if len(page) == _PAGE:
            return True
        if not version.complete:
            await pool_versions.complete(self._pool, lead, version)
            await self._swapped(version)
            logger.info("the pool is embedded by %s", version.model_version)
        await pool_versions.drop_others(self._pool, lead, version)
        await self._look_again()
        return False

    async def _next_page(
        self, version: IndexVersion
    ) -> tuple[list[tuple[datetime, bytes]], list[bytes]]:
        """The keys of the next images, and the hashes of those to embed."""
        wanted = {
            "version_id": version.version_id,
            "model_version": version.model_version,
            "after": self._walk.after,
            "after_hash": self._walk.after_hash,
            "limit": _PAGE,
        }
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(embedding_queries.WALK, wanted)
            rows = await cursor.fetchall()
        page = [(stored_at, sha256) for sha256, stored_at, _ in rows]
        return page, [sha256 for sha256, _, missing in rows if missing]

    async def _look_again(self) -> None:
        """Look at the latest images once more: a row may turn up after a later one."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(embedding_queries.NOW)
            row = await cursor.fetchone()
        if row is not None and self._walk.after > (horizon := row[0] - _OVERLAP):
            self._walk.after, self._walk.after_hash = horizon, b""

    async def _embed(self, version: IndexVersion, hashes: Sequence[bytes]) -> bool:
        """Embed images; say whether the followed version did."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.IMAGES, {"hashes": list(hashes)})
            facts = [facts_from_row(row) for row in await cursor.fetchall()]
        faces = await asyncio.gather(*[self._face(version, one) for one in facts])
        there = [(one, face) for one, face in zip(facts, faces, strict=True) if face is not None]
        return not there or await self._store(version, there)

    async def _face(self, version: IndexVersion, facts: ImageFacts) -> FaceImage | None:
        try:
            data = await self._vault.get(facts.sha256)
        except CorruptData as error:
            # Gone with an erasure, which then took the row along, or lost.
            await self._refuse(version, facts.sha256, error)
            return None
        return FaceImage(data, facts.alignment, facts.landmarks)

    async def _store(
        self, version: IndexVersion, faces: Sequence[tuple[ImageFacts, FaceImage]]
    ) -> bool:
        try:
            embedded = await self._embedder.embed([face for _, face in faces])
        except _UNUSABLE as error:
            if len(faces) == 1:
                await self._refuse(version, faces[0][0].sha256, error)
                return True
            # One of them cannot be used, and must not keep the others out.
            half = len(faces) // 2
            return await self._store(version, faces[:half]) and await self._store(
                version, faces[half:]
            )
        if embedded.model_version != version.model_version:
            return False
        rows = {
            "version_id": version.version_id,
            "hashes": [bytes.fromhex(facts.sha256) for facts, _ in faces],
            "embeddings": [str(row.tolist()) for row in embedded.embeddings],
            "qualities": embedded.qualities.tolist(),
        }
        async with transaction(self._pool) as connection:
            await connection.execute(embedding_queries.STORE, rows)
        return True

    async def _refuse(self, version: IndexVersion, sha256: str, why: Exception) -> None:
        logger.warning("image %s is left out of the pool: %s", sha256, why)
        row = {
            "sha256": bytes.fromhex(sha256),
            "model_version": version.model_version,
            "why": str(why),
        }
        async with transaction(self._pool) as connection:
            await connection.execute(embedding_queries.REFUSE, row)
