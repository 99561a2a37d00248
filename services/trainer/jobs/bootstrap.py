"""First start: import of the bundled network when there is no model version yet."""

import logging

from services.trainer.jobs import queries
from services.trainer.jobs.queue import create_job
from services.trainer.worker.specs import ImportSpec, JobKind
from shared.model.default import default_calibration
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)


async def import_default_if_empty(pool: Pool) -> None:
    """Queue the import and promotion of the bundled network if there is no model version.

    Trainers that start at the same time queue one job. If an earlier job failed, a new one is
    queued.

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
        await connection.execute(queries.LOCK_BOOTSTRAP)
        cursor = await connection.execute(queries.VERSION_OR_BOOTSTRAP_JOB)
        if await cursor.fetchone() is None:
            job = await create_job(connection, JobKind.IMPORT, spec.model_dump(), "system")
            logger.info("no model version yet: job %s imports the bundled network", job.job_id)
