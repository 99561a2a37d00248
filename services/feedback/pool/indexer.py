"""Pool indexer: embeds the pool with the serving model version."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.feedback.images.vault import ImageFacts, ImageVault, facts_from_row
from services.feedback.labels import queries as label_queries
from services.feedback.pool import index_versions, queries
from services.feedback.pool.calibration import Calibration
from services.feedback.pool.embedder_client import EmbedderClient, ServingModel
from services.feedback.pool.index_versions import IndexVersion
from services.feedback.pool.leadership import LeaderConnection
from shared.errors import CorruptData, InvalidInput, PreconditionFailed
from shared.model.image.face import FaceImage
from shared.storage.postgres import Pool, fetch, transaction

logger = logging.getLogger(__name__)

# One batch of the embedder: a live call waits for no more than that.
_IMAGES_PER_CALL: Final = 32
_PAGE: Final = 256
# Longer than a transaction that adds an image can take: stored_at is the time of its start.
_OVERLAP: Final = timedelta(seconds=60)
_START: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNUSABLE: Final = (InvalidInput, PreconditionFailed, CorruptData)

GetCalibration = Callable[[ServingModel], Awaitable[Calibration]]
OnComplete = Callable[[IndexVersion], Awaitable[None]]


@dataclass(slots=True)
class _ScanPosition:
    """The last image that was looked at, in the order of stored_at."""

    version_id: int
    stored_at: datetime = _START
    sha256: bytes = b""


class PoolIndexer:
    """Embeds the images that have no embedding by the serving version, page by page.

    An embedding is stored only if the embedder's answer names the version that is being indexed,
    so that versions do not mix. After a crash the scan restarts and skips stored embeddings.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Reads the images.
        embedder: Embeds them.
        get_calibration: Gives the calibration of a version.
        on_complete: Called when a version has become complete, before the previous version is
            dropped.
    """

    def __init__(
        self,
        pool: Pool,
        vault: ImageVault,
        embedder: EmbedderClient,
        *,
        get_calibration: GetCalibration,
        on_complete: OnComplete,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._embedder = embedder
        self._get_calibration = get_calibration
        self._on_complete = on_complete
        self._position = _ScanPosition(0)

    async def step(self, leader: LeaderConnection) -> bool:
        """Embed one page of images; after the last page complete the version.

        Returns:
            Whether to call again at once.

        Raises:
            MagFaceError: If a store or the embedder does not answer; call again later.
        """
        version = await self._serving_version(leader)
        if self._position.version_id != version.version_id:
            self._position = _ScanPosition(version.version_id)
        page, missing = await self._next_page(version)
        for first in range(0, len(missing), _IMAGES_PER_CALL):
            if not await self._embed(version, missing[first : first + _IMAGES_PER_CALL]):
                return True  # another version serves now
        if page:
            self._position.stored_at, self._position.sha256 = page[-1]
        if len(page) == _PAGE:
            return True
        if not version.complete:
            await index_versions.build_index(self._pool, leader, version)
            await self._on_complete(version)
            logger.info("the pool is indexed by %s", version.model_version)
        await index_versions.drop_others(self._pool, leader, version)
        await self._step_back()
        return False

    async def _serving_version(self, leader: LeaderConnection) -> IndexVersion:
        model = await self._embedder.model()
        calibration = await self._get_calibration(model)
        return await index_versions.get_or_create(self._pool, leader, model, calibration)

    async def _next_page(
        self, version: IndexVersion
    ) -> tuple[list[tuple[datetime, bytes]], list[bytes]]:
        """Give the next images as (stored_at, sha256), and the hashes of those to embed."""
        wanted = {
            "version_id": version.version_id,
            "model_version": version.model_version,
            "after": self._position.stored_at,
            "after_hash": self._position.sha256,
            "limit": _PAGE,
        }
        rows = await fetch(self._pool, queries.WALK, wanted)
        page = [(stored_at, sha256) for sha256, stored_at, _ in rows]
        return page, [sha256 for sha256, _, missing in rows if missing]

    async def _step_back(self) -> None:
        """Look at the latest images again: a row may be committed after a later one."""
        ((now,),) = await fetch(self._pool, queries.NOW, {})
        if self._position.stored_at > (horizon := now - _OVERLAP):
            self._position.stored_at, self._position.sha256 = horizon, b""

    async def _embed(self, version: IndexVersion, hashes: Sequence[bytes]) -> bool:
        """Embed images; returns False if another version embedded them."""
        rows = await fetch(self._pool, label_queries.IMAGES, {"hashes": list(hashes)})
        facts = [facts_from_row(row) for row in rows]
        faces = await asyncio.gather(*[self._read_face(version, one) for one in facts])
        usable = [(one, face) for one, face in zip(facts, faces, strict=True) if face is not None]
        return not usable or await self._embed_faces(version, usable)

    async def _read_face(self, version: IndexVersion, facts: ImageFacts) -> FaceImage | None:
        try:
            data = await self._vault.get(facts)
        except CorruptData as error:
            # The object was lost, or an erasure removed it and is about to remove the row.
            await self._mark_unembeddable(version, facts.sha256, error)
            return None
        return facts.face(data)

    async def _embed_faces(
        self, version: IndexVersion, faces: Sequence[tuple[ImageFacts, FaceImage]]
    ) -> bool:
        try:
            embedded = await self._embedder.embed([face for _, face in faces])
        except _UNUSABLE as error:
            if len(faces) == 1:
                await self._mark_unembeddable(version, faces[0][0].sha256, error)
                return True
            embedded = None
        # Not in the except block, where the error would keep the request.
        if embedded is None:
            # Bisect, so that one unusable image does not keep out the others.
            half = len(faces) // 2
            return await self._embed_faces(version, faces[:half]) and await self._embed_faces(
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
            await connection.execute(queries.STORE, rows)
            await connection.execute(queries.EMBEDDABLE, {"hashes": rows["hashes"]})
        return True

    async def _mark_unembeddable(
        self, version: IndexVersion, sha256: str, error: Exception
    ) -> None:
        logger.warning(
            "image %s cannot be embedded by %s and is left out of the pool: %s",
            sha256,
            version.model_version,
            error,
        )
        row = {
            "sha256": bytes.fromhex(sha256),
            "model_version": version.model_version,
            "why": str(error),
        }
        async with transaction(self._pool) as connection:
            await connection.execute(queries.MARK_UNEMBEDDABLE, row)
            await connection.execute(queries.DISCARD_CANDIDATES, row)
