"""Reports on suspect labels of finished trainings."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from services.trainer.data.label_report import LabelReport, load_report
from services.trainer.data.left_out import LeftOutImage
from services.trainer.registry import queries
from shared.errors import NotFound
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction


class SuspectLabels:
    """Reads the label reports of trainings.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where the reports are.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def report(self, job_id: UUID | None) -> tuple[UUID, LabelReport]:
        """Return the label report of a training, with the training's job id.

        Args:
            job_id: The training; None for the one that finished last.

        Raises:
            NotFound: If there is no such training, it has not succeeded, or it has no report.
            Unavailable: If Postgres or the object store cannot be reached.
        """
        training = await self._finished_training(job_id)
        if training is None:
            subject = "no training" if job_id is None else f"job {job_id} is no training that"
            raise NotFound(f"{subject} has succeeded; suspect labels are listed after a training")
        try:
            return training, await asyncio.to_thread(load_report, self._objects, training)
        except NotFound as error:
            raise NotFound(f"job {training} has no report on suspect labels") from error

    async def left_out(self, job_id: UUID) -> Sequence[LeftOutImage]:
        """Return the images that a job left out, while they are stored.

        Raises:
            NotFound: If there is no such job.
            Unavailable: If Postgres or the object store cannot be reached.
        """
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.JOB_EXISTS, {"job_id": job_id})
            if await cursor.fetchone() is None:
                raise NotFound(f"there is no job {job_id}")
        try:
            report = await asyncio.to_thread(load_report, self._objects, job_id)
        except NotFound:
            return ()
        return report.left_out

    async def _finished_training(self, job_id: UUID | None) -> UUID | None:
        query = queries.FINISHED_TRAINING if job_id else queries.LATEST_FINISHED_TRAINING
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(query, {"job_id": job_id})
            row: tuple[UUID] | None = await cursor.fetchone()
        return row[0] if row else None
