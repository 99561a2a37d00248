"""Leases of jobs in Postgres: claim, heartbeat, progress and end.

A runner holds a job by a lease, which it renews, and by a fencing token, which rises with every
claim. Each write of a runner names its token. Once another runner has claimed the job, the writes
of the former runner are refused.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from services.trainer.evaluation.gate import GateVerdict, verdict_to_json
from services.trainer.jobs import queries
from services.trainer.jobs.outages import plan_pause
from services.trainer.jobs.queue import Job, JobState, job_from_row, record_event
from services.trainer.progress import Progress, Stage
from services.trainer.settings import OUTAGE_LIMIT_S
from shared.errors import Conflict
from shared.storage.postgres import Pool, transaction

LEASE_S = 15.0
MAX_ATTEMPTS = 5
_HASH = re.compile(r"(?<![0-9a-z])([0-9a-f]{8})[0-9a-f]{56}(?![0-9a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class JobClaim:
    """A job as it was when it was claimed, and the fencing token of the claim."""

    job: Job
    fencing_token: int


@dataclass(frozen=True)
class JobEnding:
    """How a job ended."""

    state: JobState
    message: str
    model_version: str | None = None
    gate: GateVerdict | None = None


class JobLeases:
    """Claims jobs and records the work on them.

    Every method raises `Unavailable` if Postgres cannot be reached. Methods that take a claim
    raise `Conflict` if another runner has claimed the job since.

    Args:
        pool: Connections to a database with the schema `trainer`.
        lease_s: A job may be claimed by another runner after this long without a heartbeat, in
            seconds.
        outage_limit_s: Longest outage that a job waits out, in seconds.
    """

    def __init__(
        self, pool: Pool, lease_s: float = LEASE_S, outage_limit_s: float = OUTAGE_LIMIT_S
    ) -> None:
        self._pool = pool
        self.lease_s = lease_s
        self.outage_limit_s = outage_limit_s

    async def claim(self) -> JobClaim | None:
        """Claim the oldest job that is queued or whose lease has expired; None if there is none.

        A job that was started `MAX_ATTEMPTS` times without an end is failed, so that a job that
        kills the trainer does not do so forever.
        """
        while True:
            async with transaction(self._pool) as connection:
                claim = await self._claim(connection)
                if claim is None or claim.job.attempts <= MAX_ATTEMPTS:
                    return claim
                message = f"given up: the trainer ended {MAX_ATTEMPTS} times during this job"
                await finish_job(connection, claim, JobEnding(JobState.FAILED, message))

    async def _claim(self, connection: AsyncConnection) -> JobClaim | None:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(queries.CLAIM_JOB, {"lease_s": self.lease_s, "stage": Stage.STARTING})
        row = await cursor.fetchone()
        if row is None:
            return None
        job = job_from_row(row)
        await record_event(connection, job)
        return JobClaim(job, row["fencing_token"])

    async def renew(self, claim: JobClaim) -> str | None:
        """Renew the lease.

        Returns:
            Who asked for the job to be cancelled; None if nobody did.
        """
        async with transaction(self._pool) as connection:
            row = await _write(connection, claim, queries.RENEW_LEASE, {"lease_s": self.lease_s})
        cancelled_by: str | None = row["cancelled_by"]
        return cancelled_by

    async def record_progress(self, claim: JobClaim, progress: Progress) -> None:
        """Record the progress of the job as an event."""
        values = {
            "progress": progress.fraction,
            "message": progress.message,
            "stage": progress.stage,
        }
        async with transaction(self._pool) as connection:
            row = await _write(connection, claim, queries.RECORD_PROGRESS, values)
            await record_event(connection, job_from_row(row), progress.figures)

    async def enter_stage(self, claim: JobClaim, stage: Stage, message: str) -> None:
        """Record that the job enters a stage; its progress does not change."""
        async with transaction(self._pool) as connection:
            await enter_stage(connection, claim, stage, message)

    async def set_message(self, claim: JobClaim, message: str) -> None:
        """Record what the job is doing, for people; its stage and progress do not change."""
        async with transaction(self._pool) as connection:
            row = await _write(connection, claim, queries.SET_MESSAGE, {"message": message})
            await record_event(connection, job_from_row(row))

    async def set_snapshot(self, claim: JobClaim, snapshot_id: str) -> None:
        """Record the data snapshot of the job, which later attempts use too."""
        async with transaction(self._pool) as connection:
            await _write(connection, claim, queries.SET_SNAPSHOT, {"snapshot_id": snapshot_id})

    async def release(self, claim: JobClaim) -> None:
        """Put the job back into the queue at once, without counting the attempt."""
        async with transaction(self._pool) as connection:
            await _requeue(connection, claim, "waiting", queries.RELEASE)

    async def retry_later(self, claim: JobClaim, reason: str) -> None:
        """Put the job back into the queue after an outage, or fail it if the outage is too long.

        The attempt is not counted. An outage ends when an attempt gets further than all before.
        """
        async with transaction(self._pool) as connection:
            waited_s = (await _write(connection, claim, queries.LOCK_CLAIMED))["blocked_s"]
            pause = plan_pause(reason, waited_s, self.outage_limit_s)
            if pause.seconds is None:
                ending = JobEnding(JobState.FAILED, pause.message)
                await finish_job(connection, claim, ending)
            else:
                values = {"delay_s": pause.seconds}
                await _requeue(connection, claim, pause.message, queries.RETRY_LATER, values)

    async def finish(self, claim: JobClaim, ending: JobEnding) -> None:
        """End the job."""
        async with transaction(self._pool) as connection:
            await finish_job(connection, claim, ending)


async def lock_claimed(connection: AsyncConnection, claim: JobClaim) -> None:
    """Lock a claimed job, so that no other runner can claim it until the transaction ends.

    Raises:
        Conflict: If another runner has claimed it.
    """
    await _write(connection, claim, queries.LOCK_CLAIMED)


async def enter_stage(
    connection: AsyncConnection, claim: JobClaim, stage: Stage, message: str
) -> None:
    """Enter a stage in the caller's transaction; see `JobLeases.enter_stage`."""
    values = {"message": message, "stage": stage}
    row = await _write(connection, claim, queries.ENTER_STAGE, values)
    await record_event(connection, job_from_row(row))


async def finish_job(connection: AsyncConnection, claim: JobClaim, ending: JobEnding) -> None:
    """End a job in the caller's transaction; see `JobLeases.finish`."""
    values = {
        "state": str(ending.state),
        "message": ending.message,
        "model_version": ending.model_version,
        "gate": verdict_to_json(ending.gate),
    }
    row = await _write(connection, claim, queries.FINISH_JOB, values)
    await record_event(connection, job_from_row(row))


async def _requeue(
    connection: AsyncConnection,
    claim: JobClaim,
    message: str,
    query: str,
    values: Mapping[str, Any] | None = None,
) -> None:
    all_values = {"message": message, "stage": Stage.QUEUED, **(values or {})}
    row = await _write(connection, claim, query, all_values)
    await record_event(connection, job_from_row(row))


def _shorten_hashes(message: str) -> str:
    """Cut hashes of images short, because an erasure does not change the messages of jobs."""
    return _HASH.sub(r"\1…", message)


async def _write(
    connection: AsyncConnection,
    claim: JobClaim,
    query: str,
    values: Mapping[str, Any] | None = None,
) -> DictRow:
    """Run a query that affects the job only while the claim is the latest one; returns the row."""
    written = {**(values or {}), "job_id": claim.job.job_id, "token": claim.fencing_token}
    if "message" in written:
        written["message"] = _shorten_hashes(written["message"])
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(query, written)
    row = await cursor.fetchone()
    if row is None:
        raise Conflict(
            f"job {claim.job.job_id} is no longer held with token {claim.fencing_token}:"
            " another runner has claimed it"
        )
    return row
