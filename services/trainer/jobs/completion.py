"""Completion of a job: publish what it made, record it, promote a version if that is due."""

import asyncio
from pathlib import Path
from uuid import UUID

from psycopg import AsyncConnection

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.evaluation.result import EvaluationResult
from services.trainer.jobs.leases import (
    JobClaim,
    JobEnding,
    enter_stage,
    finish_job,
    lock_claimed,
)
from services.trainer.jobs.queue import Job, JobState
from services.trainer.progress import Stage
from services.trainer.registry.evaluations import add_evaluation, describe_result
from services.trainer.registry.promotion import (
    PromotionPlan,
    plan_candidate,
    plan_import,
    promote_new,
)
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.versions import (
    add_version,
    lock_serving_history,
    read_version,
    replace_verdict,
)
from services.trainer.worker.protocol import VerdictDone
from services.trainer.worker.specs import JobKind
from shared.errors import AlreadyExists
from shared.model.manifest import MAGFACE_EPS, Manifest, read_manifest
from shared.registry.evaluation_pages import page_key
from shared.registry.version_store import VersionStore
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction


class JobCompletion:
    """Completes jobs that succeeded: first the files in the object store, then the rows.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where the reports of evaluations are.
        store: Where the files of versions are.
        pointer: Published after a promotion.
    """

    def __init__(
        self,
        pool: Pool,
        objects: ObjectStore,
        store: VersionStore,
        pointer: ServingPointerPublisher,
    ) -> None:
        self._pool = pool
        self._objects = objects
        self._store = store
        self._pointer = pointer

    async def publish_version(self, job: Job, folder: Path) -> Manifest:
        """Put the files of the version that the job made into the object store.

        If the job ends after this and before `record_version`, the next attempt finds the files
        and uses them.

        Returns:
            The manifest as it is published.

        Raises:
            CorruptData: If the folder does not match its manifest.
            AlreadyExists: If a version of another job has the same name.
            Unavailable: If the store cannot be reached.
        """
        return await asyncio.to_thread(self._publish_version, job.job_id, folder)

    def _publish_version(self, job_id: UUID, folder: Path) -> Manifest:
        version = read_manifest(folder).model_version
        try:
            self._store.publish(folder)
        except AlreadyExists:
            # An earlier attempt of this job published the version, from a machine that rounds
            # differently. Its files are used.
            if self._store.manifest(version).job_id != str(job_id):
                raise
        return self._store.manifest(version)

    async def record_version(
        self,
        claim: JobClaim,
        manifest: Manifest,
        gate: GateVerdict,
        remark: str = "",
    ) -> None:
        """Record a published version, its promotion if due, and the end of its job.

        All of this is one transaction. The serving pointer is published after it.

        Args:
            claim: Of the job.
            manifest: As it is published.
            gate: Its verdict.
            remark: Of the worker, for the job's message; may be empty.

        Raises:
            Conflict: If another runner has claimed the job.
            Unavailable: If Postgres cannot be reached.
        """
        job, version = claim.job, manifest.model_version
        async with transaction(self._pool) as connection:
            await lock_claimed(connection, claim)
            # So that no other promotion comes between the plan and its record.
            await lock_serving_history(connection)
            await add_version(connection, manifest, gate, job.job_id)
            plan = await _plan_promotion(connection, job, manifest, gate)
            if plan.due:
                await enter_stage(connection, claim, Stage.PROMOTING, f"promoting {version}")
                await promote_new(connection, plan, requested_by=job.requested_by)
            message = _joined(plan.message, remark, _warning(job, manifest))
            ending = JobEnding(JobState.SUCCEEDED, message, version, gate)
            await finish_job(connection, claim, ending)
        await self._pointer.try_to_publish()

    async def record_verdict(self, claim: JobClaim, judged: VerdictDone) -> None:
        """Record a new verdict on a version, its promotion if due, and the end of the job.

        Args:
            claim: Of the job.
            judged: The verdict.

        Raises:
            Conflict: If another runner has claimed the job.
            Unavailable: If Postgres cannot be reached.
        """
        job, name = claim.job, judged.model_version
        async with transaction(self._pool) as connection:
            await lock_claimed(connection, claim)
            await lock_serving_history(connection)
            await replace_verdict(connection, name, judged.gate, job.job_id)
            version = await read_version(connection, name)
            automatic = not job.spec["no_promotion"]
            plan = await plan_candidate(
                connection, version.manifest, judged.gate, automatic=automatic
            )
            if plan.due:
                await enter_stage(connection, claim, Stage.PROMOTING, f"promoting {name}")
                await promote_new(connection, plan, requested_by=job.requested_by)
            message = _joined(plan.message, judged.remark)
            await finish_job(
                connection, claim, JobEnding(JobState.SUCCEEDED, message, name, judged.gate)
            )
        await self._pointer.try_to_publish()

    async def publish_report(self, job: Job, page: Path) -> None:
        """Put the HTML report of the job's evaluation into the object store.

        Raises:
            Unavailable: If the store cannot be reached.
        """
        await asyncio.to_thread(self._objects.put_file, page_key(job.job_id), page)

    async def record_evaluation(
        self, claim: JobClaim, result: EvaluationResult, remark: str = ""
    ) -> None:
        """Record an evaluation, whose report is published, and the end of its job.

        Args:
            claim: Of the job.
            result: The evaluation.
            remark: Of the worker, for the job's message; may be empty.

        Raises:
            Conflict: If another runner has claimed the job.
            Unavailable: If Postgres cannot be reached.
        """
        message = _joined(describe_result(result), remark)
        ending = JobEnding(JobState.SUCCEEDED, message, result.model_version)
        async with transaction(self._pool) as connection:
            await lock_claimed(connection, claim)
            await add_evaluation(connection, claim.job.job_id, result)
            await finish_job(connection, claim, ending)


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _warning(job: Job, manifest: Manifest) -> str:
    """Say of an import that its BatchNorms are not MagFace's."""
    if job.kind is not JobKind.IMPORT or manifest.batch_norm_eps == MAGFACE_EPS:
        return ""
    return (
        f"warning: its BatchNorms have eps {manifest.batch_norm_eps:g}, as those of"
        f" arcface_torch, and not MagFace's {MAGFACE_EPS:g}"
    )


async def _plan_promotion(
    connection: AsyncConnection, job: Job, manifest: Manifest, gate: GateVerdict
) -> PromotionPlan:
    if job.kind is JobKind.IMPORT:
        first = job.spec["promote_if_first"]
        return await plan_import(connection, manifest, gate, promote_if_first=first)
    automatic = job.kind is JobKind.TRAIN and not job.spec["no_promotion"]
    return await plan_candidate(connection, manifest, gate, automatic=automatic)
