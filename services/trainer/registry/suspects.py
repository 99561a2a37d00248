"""Suspected labels of finished trainings, read from the object store."""

import asyncio
from uuid import UUID

from services.trainer.data.label_report import LabelReport, load_report
from shared.errors import NotFound
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction


class Suspects:
    """Looks up what trainings found out about their labels."""

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def report(self, job_id: UUID | None) -> tuple[UUID, LabelReport]:
        """Give the report of a training, and which one that is.

        Args:
            job_id: The latest finished training when None.

        Raises:
            NotFound: If there is no such training, or it has not succeeded.
            Unavailable: If Postgres or the object store cannot be reached.
        """
        found = await self._finished(job_id)
        if found is None:
            named = "no training" if job_id is None else f"job {job_id} is no training that"
            raise NotFound(f"{named} has succeeded; only such a one lists suspect labels")
        try:
            return found, await asyncio.to_thread(load_report, self._objects, found)
        except NotFound as error:
            raise NotFound(f"job {found} kept no list of suspect labels") from error

    async def _finished(self, job_id: UUID | None) -> UUID | None:
        async with transaction(self._pool) as connection:
            rows = await connection.execute(
                "SELECT job_id FROM trainer.jobs WHERE kind = 'train' AND state = 'succeeded'"
                " AND (%(job_id)s::uuid IS NULL OR job_id = %(job_id)s)"
                " ORDER BY ended_at DESC LIMIT 1",
                {"job_id": job_id},
            )
            row: tuple[UUID] | None = await rows.fetchone()
        return row and row[0]
