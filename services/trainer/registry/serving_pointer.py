"""Publication of the serving pointer, which the embedders poll."""

import asyncio
import logging
from typing import NoReturn

from services.trainer.registry import queries
from services.trainer.registry.versions import ServingDecision, read_serving
from shared.errors import CorruptData, MagFaceError
from shared.registry.serving_pointer import ServingPointer, read_pointer, write_pointer
from shared.runtime import repeat
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)

RECONCILE_INTERVAL_S = 1.0


class ServingPointerPublisher:
    """Copies the serving decision in force from Postgres to the object store.

    The decision is read and the pointer written while an advisory lock is held, so that an older
    decision never overwrites a newer one.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where the pointer is.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def run(self) -> NoReturn:
        """Publish the pointer once a second, until cancelled.

        This repairs the pointer after a crash between the commit of a decision and its
        publication.
        """
        await repeat("publication of the serving pointer", self.publish, RECONCILE_INTERVAL_S)

    async def publish(self) -> None:
        """Write the pointer if it differs from the decision in force.

        Raises:
            Unavailable: If Postgres or the object store cannot be reached.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries.LOCK_SERVING_POINTER)
            serving = await read_serving(connection)
            if serving is not None:
                await asyncio.to_thread(self._write_if_changed, serving)

    async def try_to_publish(self) -> bool:
        """Publish the pointer right after a decision is committed.

        The decision stands even if this fails; `run` publishes it later.

        Returns:
            Whether it was published.
        """
        try:
            await self.publish()
        except MagFaceError as error:
            logger.warning("serving pointer not published yet: %s", error)
            return False
        return True

    def _write_if_changed(self, serving: ServingDecision) -> None:
        pointer = ServingPointer(
            model_version=serving.model_version,
            generation=serving.generation,
            published_at=serving.at,
            target_fmr=serving.target_fmr,
            prior=serving.prior,
        )
        if self._published() == pointer:
            return
        write_pointer(self._objects, pointer)
        logger.info("published generation %d: %s", serving.generation, serving.model_version)

    def _published(self) -> ServingPointer | None:
        try:
            return read_pointer(self._objects)
        except CorruptData as error:
            logger.warning("the serving pointer is corrupt and is replaced: %s", error)
            return None
