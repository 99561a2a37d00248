"""Removal of uploads and checkpoints that no job needs any more."""

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import NoReturn

from services.trainer.jobs import queries
from services.trainer.training.checkpoint import STATE_PREFIX
from services.trainer.worker.specs import UPLOAD_PREFIX
from shared.runtime import repeat
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

_INTERVAL_S = 60.0
# An upload is stored before the job that names it is queued.
_MIN_UPLOAD_AGE = timedelta(hours=1)


class Janitor:
    """Removes objects of ended jobs from the object store.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where checkpoints and uploads are.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def run(self) -> NoReturn:
        """Clean up once a minute, until cancelled."""
        await repeat("removal of objects of ended jobs", self.clean_up, _INTERVAL_S)

    async def clean_up(self) -> None:
        """Remove the checkpoints and uploads of ended jobs once.

        Raises:
            Unavailable: If Postgres or the object store cannot be reached.
        """
        # Objects are listed before jobs, so that a job queued in between keeps its objects.
        stored = await asyncio.to_thread(lambda: list(self._removable()))
        needed = await self._needed()
        for key, owner in stored:
            if owner not in needed:
                await asyncio.to_thread(self._objects.remove, key)

    def _removable(self) -> Iterator[tuple[str, str]]:
        """List keys that may be removed, each with the job id or upload that it belongs to."""
        for found in self._objects.list(STATE_PREFIX):
            yield found.key, found.key.split("/")[1]
        # By the clock of the store, whatever the clock of this process says.
        now = self._objects.read_clock()
        for found in self._objects.list(UPLOAD_PREFIX):
            if now - found.modified_at > _MIN_UPLOAD_AGE:
                yield found.key, found.key.removeprefix(UPLOAD_PREFIX)

    async def _needed(self) -> set[str]:
        """List the ids and uploads of all jobs that have not ended."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.OPEN_JOBS)
            return {owner for row in await cursor.fetchall() for owner in row}
