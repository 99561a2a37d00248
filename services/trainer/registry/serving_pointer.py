"""Keeps the pointer that the embedders watch in step with the serving history."""

import asyncio
import logging
from datetime import UTC, datetime

from services.trainer.registry.versions import Serving, read_serving
from shared.errors import CorruptData, MagFaceError
from shared.registry.serving_pointer import ServingPointer, read_pointer, write_pointer
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)

RECONCILE_INTERVAL_S = 1.0


class PointerPublisher:
    """Copies the latest serving decision to the object store.

    Postgres decides; the pointer only follows. Copying happens under a lock and from the
    row as it is read under that lock, so that an older decision never overwrites a newer.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def publish(self) -> None:
        """Bring the pointer up to date.

        Raises:
            Unavailable: If Postgres or the object store cannot be reached.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended('magface serving pointer', 0))"
            )
            serving = await read_serving(connection)
            if serving is not None:
                await asyncio.to_thread(self._bring_up, serving)

    def _bring_up(self, serving: Serving) -> None:
        if self._published() == (serving.generation, serving.model_version):
            return
        pointer = ServingPointer(
            model_version=serving.model_version,
            generation=serving.generation,
            published_at=datetime.now(UTC),
        )
        write_pointer(self._objects, pointer)
        logger.info("published generation %d: %s", serving.generation, serving.model_version)

    def _published(self) -> tuple[int, str] | None:
        try:
            pointer = read_pointer(self._objects)
        except CorruptData as error:
            logger.warning("the serving pointer is replaced: %s", error)
            return None
        return (pointer.generation, pointer.model_version) if pointer else None

    async def try_to_publish(self) -> bool:
        """Bring the pointer up to date if that is possible now.

        For use right after a decision is committed: it holds whether or not the store is
        away, and `reconcile` makes up for it.
        """
        try:
            await self.publish()
        except MagFaceError as error:
            logger.warning("the serving pointer waits: %s", error)
            return False
        return True

    async def reconcile(self) -> None:
        """Bring the pointer up to date each second, until cancelled.

        Heals a crash between a decision's commit and its publication.
        """
        published = True
        while True:
            await asyncio.sleep(RECONCILE_INTERVAL_S)
            published = await (self.try_to_publish() if published else self._quietly())

    async def _quietly(self) -> bool:
        try:
            await self.publish()
        except MagFaceError:
            return False
        logger.info("the serving pointer is up to date again")
        return True
