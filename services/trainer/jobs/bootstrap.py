"""Gives a trainer that has nothing yet the bundled network to serve."""

import logging

from services.trainer.jobs.queue import create_job
from services.trainer.worker.specs import ImportSpec, JobKind
from shared.model.default import default_calibration
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)


async def import_default_if_empty(pool: Pool) -> None:
    """Queue the import and promotion of the bundled default, unless there is any version.

    Trainers that start together queue it once; one that failed is queued again.

    Raises:
        Unavailable: If Postgres cannot be reached.
    """
    calibration = default_calibration()
    spec = ImportSpec(
        upload=None,
        channel_order=calibration.channel_order,
        threshold=calibration.threshold,
        promote_if_first=True,
    )
    async with transaction(pool) as connection:
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('magface first start', 0))"
        )
        cursor = await connection.execute(
            "SELECT 1 FROM trainer.versions"
            " UNION ALL SELECT 1 FROM trainer.jobs WHERE (spec ->> 'promote_if_first')::boolean"
            " AND state IN ('queued', 'running') LIMIT 1"
        )
        if await cursor.fetchone() is None:
            job = await create_job(connection, JobKind.IMPORT, spec.model_dump(), "system")
            logger.info("no model version yet: job %s imports the bundled one", job.job_id)
