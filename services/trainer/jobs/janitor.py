"""Removes from the object store what no job needs any more."""

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from uuid import UUID

from services.trainer.training.checkpoint import STATE_PREFIX
from services.trainer.worker.specs import UPLOAD_PREFIX
from shared.errors import MagFaceError
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)

_INTERVAL_S = 60.0
# An upload comes before the job that names it.
_FRESH = timedelta(hours=1)


class Housekeeper:
    """Keeps training states and uploads only as long as a job may ask for them."""

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def run(self) -> None:
        """Clean up once a minute, until cancelled."""
        while True:
            try:
                await self.clean_up()
            except MagFaceError as error:
                logger.warning("cleaning up waits: %s", error)
            await asyncio.sleep(_INTERVAL_S)

    async def clean_up(self) -> None:
        """Remove what was left by jobs that have ended.

        Raises:
            Unavailable: If Postgres or the object store cannot be reached.
        """
        # What is stored before what is wanted: a job made in between is not overlooked.
        stored = await asyncio.to_thread(lambda: list(self._stored()))
        wanted = await self._wanted()
        for key, owner in stored:
            if owner not in wanted:
                await asyncio.to_thread(self._objects.remove, key)

    def _stored(self) -> Iterator[tuple[str, str]]:
        """Give each key that may go, with the job or the upload that it belongs to."""
        for found in self._objects.list(STATE_PREFIX):
            yield found.key, found.key.split("/")[1]
        for found in self._objects.list(UPLOAD_PREFIX):
            if datetime.now(UTC) - found.modified_at > _FRESH:
                yield found.key, found.key.removeprefix(UPLOAD_PREFIX)

    async def _wanted(self) -> set[str]:
        wanted: set[str] = set()
        async with transaction(self._pool) as connection:
            rows = await connection.execute(
                "SELECT job_id, spec ->> 'upload' FROM trainer.jobs"
                " WHERE state IN ('queued', 'running')"
            )
            job_id: UUID
            async for job_id, upload in rows:
                wanted |= {str(job_id), upload}
        return wanted
