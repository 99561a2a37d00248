"""Keeps what jobs made: a model version, which may serve at once, or an evaluation."""

import asyncio
import logging
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.evaluation.result import EvaluationResult
from services.trainer.jobs.leases import Claim, Ending, enter_stage, finish_job, hold
from services.trainer.jobs.queue import Job, JobState
from services.trainer.progress import Stage
from services.trainer.registry.evaluations import add_evaluation, describe_result, report_key
from services.trainer.registry.serving_pointer import PointerPublisher
from services.trainer.registry.versions import (
    Serving,
    add_version,
    append_serving,
    describe_refusal,
    read_serving,
)
from services.trainer.worker.specs import JobKind
from shared.errors import AlreadyExists, Unavailable
from shared.model.manifest import Manifest, read_manifest
from shared.registry.version_store import VersionStore
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)

_PUBLISH_AGAIN_AFTER_S = (1, 3, 9)


class Completion:
    """Ends jobs that succeeded: first the files, then the rows that name them."""

    def __init__(
        self, pool: Pool, objects: ObjectStore, store: VersionStore, pointer: PointerPublisher
    ) -> None:
        self._pool = pool
        self._objects = objects
        self._store = store
        self._pointer = pointer

    async def publish(self, job: Job, folder: Path) -> Manifest:
        """Put the files of the version that the job made into the object store.

        Tried for a while before the work is given up. An attempt that was stopped after this
        leaves nothing but the files, and the next one finds them.

        Returns:
            The manifest as it is published.

        Raises:
            CorruptData: If the folder does not match its manifest.
            AlreadyExists: If another job's version has the same name.
            Unavailable: If the store cannot be reached.
        """
        for delay in _PUBLISH_AGAIN_AFTER_S:
            try:
                return await asyncio.to_thread(self._publish, job.job_id, folder)
            except Unavailable as error:
                logger.warning("job %s: publishing again in %g s: %s", job.job_id, delay, error)
                await asyncio.sleep(delay)
        return await asyncio.to_thread(self._publish, job.job_id, folder)

    def _publish(self, job_id: UUID, folder: Path) -> Manifest:
        version = read_manifest(folder).model_version
        try:
            self._store.publish(folder)
        except AlreadyExists:
            # An earlier attempt got as far as here, on a machine that rounds otherwise:
            # what it published stands.
            if self._store.manifest(version).job_id != str(job_id):
                raise
        return self._store.manifest(version)

    async def record(self, claim: Claim, manifest: Manifest, gate: GateVerdict | None) -> None:
        """Record a published version, its promotion and the end of its job, all at once.

        Raises:
            Conflict: If the job was claimed by another runner.
            Unavailable: If Postgres cannot be reached.
        """
        async with transaction(self._pool) as connection:
            await hold(connection, claim)
            # Waits for promotions under way, so that none comes between the look and the entry.
            await connection.execute(
                "LOCK TABLE trainer.serving_history IN SHARE ROW EXCLUSIVE MODE"
            )
            await add_version(connection, manifest, gate, claim.job.job_id)
            message = await _promote_if_due(connection, claim, manifest, gate)
            ending = Ending(JobState.SUCCEEDED, message, manifest.model_version, gate)
            await finish_job(connection, claim, ending)
        await self._pointer.try_to_publish()

    async def publish_page(self, job: Job, page: Path) -> None:
        """Put the page that shows the job's evaluation into the object store.

        Raises:
            Unavailable: If the store cannot be reached.
        """
        await asyncio.to_thread(self._objects.put_file, report_key(job.job_id), page)

    async def record_evaluation(self, claim: Claim, result: EvaluationResult) -> None:
        """Record an evaluation, whose page is published, and the end of its job.

        Raises:
            Conflict: If the job was claimed by another runner.
            Unavailable: If Postgres cannot be reached.
        """
        async with transaction(self._pool) as connection:
            await hold(connection, claim)
            await add_evaluation(connection, claim.job.job_id, result)
            message = describe_result(result)
            await finish_job(
                connection, claim, Ending(JobState.SUCCEEDED, message, result.model_version)
            )


async def _promote_if_due(
    connection: AsyncConnection, claim: Claim, manifest: Manifest, gate: GateVerdict | None
) -> str:
    """Let the new version serve if its job asks for it and nothing stands against it."""
    job, version = claim.job, manifest.model_version
    now = await read_serving(connection)
    if job.kind is JobKind.IMPORT:
        if not job.spec["promote_if_first"] or now is not None:
            return f"imported as {version}"
        await _promote(connection, claim, now, version, why="first version, bundled")
        return f"imported as {version}, which serves now"
    if gate is None or not gate.passed:
        return f"the gate refused {version}: {describe_refusal(gate)}"
    if job.kind is JobKind.QUANTIZE or job.spec["no_promotion"]:
        return f"the gate passed {version}; it is kept out of service until it is promoted"
    if now is None or now.model_version != manifest.parent_version:
        serving = now.model_version if now else "nothing"
        return (
            f"the gate passed {version}, but {serving} serves by now instead of its parent"
            f" {manifest.parent_version}, with which it was compared; promote it by hand if it"
            " should serve"
        )
    await _promote(connection, claim, now, version, why="gate passed")
    return f"the gate passed {version}, which serves now"


async def _promote(
    connection: AsyncConnection, claim: Claim, now: Serving | None, version: str, why: str
) -> None:
    await enter_stage(connection, claim, Stage.PROMOTING, f"promoting {version}")
    await append_serving(connection, now, version, who=claim.job.requested_by, why=why)
