"""The right to work on a job, held in Postgres.

A runner holds a job by a lease that it renews, and by a fencing token that rises with
every claim. Each write of a runner names its token; once the job has been claimed anew,
the writes of the former runner are refused.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row

from services.trainer.evaluation.gate import GateVerdict, verdict_to_json
from services.trainer.jobs.queue import Job, JobState, job_from_row, record_event
from services.trainer.progress import Progress, Stage
from shared.errors import Conflict
from shared.storage.postgres import Pool, transaction

LEASE_S = 15.0
MAX_ATTEMPTS = 5

# Appends to `stages`. Transactions that overlap may have begun in another order than they write.
_BEGIN_STAGE = """
    stages || jsonb_build_object(
        'stage', %(stage)s::text,
        'started_at', greatest(now(), (stages -> -1 ->> 'started_at')::timestamptz)
    )
"""
_ENTER_STAGE = (
    f"stages = CASE WHEN stages -> -1 ->> 'stage' = %(stage)s THEN stages ELSE {_BEGIN_STAGE} END"
)


@dataclass(frozen=True)
class Claim:
    """A job as it was when it was claimed, and the proof of holding it."""

    job: Job
    fencing_token: int


@dataclass(frozen=True)
class Ending:
    """How a job ended."""

    state: JobState
    message: str
    model_version: str | None = None
    gate: GateVerdict | None = None


class Leases:
    """Hands out jobs, and takes what their runners have to say.

    Every method raises `Unavailable` when Postgres cannot be reached; those that take a
    claim raise `Conflict` when the job has been claimed by another runner since.

    Args:
        pool: Connections to a database with the schema `trainer`.
        lease_s: Seconds without a heartbeat after which a job may be claimed anew.
    """

    def __init__(self, pool: Pool, lease_s: float = LEASE_S) -> None:
        self._pool = pool
        self.lease_s = lease_s

    async def claim(self) -> Claim | None:
        """Take the oldest job that waits, or whose runner let its lease expire.

        A job that was started `MAX_ATTEMPTS` times and never ended is failed, so that it
        cannot take the trainer down for ever.
        """
        while True:
            async with transaction(self._pool) as connection:
                claim = await self._claim(connection)
                if claim is None or claim.job.attempts <= MAX_ATTEMPTS:
                    return claim
                why = f"given up: the trainer died {MAX_ATTEMPTS} times while it worked on this"
                await finish_job(connection, claim, Ending(JobState.FAILED, why))

    async def _claim(self, connection: AsyncConnection) -> Claim | None:
        cursor = connection.cursor(row_factory=dict_row)
        await cursor.execute(
            f"""
            UPDATE trainer.jobs
            SET state = 'running', attempts = attempts + 1, fencing_token = fencing_token + 1,
                lease_expires_at = now() + make_interval(secs => %(lease_s)s),
                started_at = coalesce(started_at, now()),
                message = CASE WHEN attempts = 0 THEN 'started' ELSE 'started again' END,
                stages = {_BEGIN_STAGE}
            WHERE job_id = (
                SELECT job_id FROM trainer.jobs
                WHERE (state = 'queued' AND not_before <= now())
                   OR (state = 'running' AND lease_expires_at <= now())
                ORDER BY seq LIMIT 1 FOR UPDATE SKIP LOCKED
            )
            RETURNING *
            """,  # noqa: S608
            {"lease_s": self.lease_s, "stage": Stage.STARTING},
        )
        row = await cursor.fetchone()
        if row is None:
            return None
        job = job_from_row(row)
        await record_event(connection, job)
        return Claim(job, row["fencing_token"])

    async def heartbeat(self, claim: Claim) -> str | None:
        """Renew the lease; gives who wants the job cancelled, if somebody does."""
        async with transaction(self._pool) as connection:
            row = await _fenced(
                connection,
                claim,
                "lease_expires_at = now() + make_interval(secs => %(lease_s)s)",
                {"lease_s": self.lease_s},
            )
        cancelled_by: str | None = row["cancelled_by"]
        return cancelled_by

    async def report(self, claim: Claim, progress: Progress) -> None:
        """Record how far the job is."""
        async with transaction(self._pool) as connection:
            row = await _fenced(
                connection,
                claim,
                f"progress = %(progress)s, message = %(message)s, {_ENTER_STAGE}",
                {
                    "progress": progress.fraction,
                    "message": progress.message,
                    "stage": progress.stage,
                },
            )
            await record_event(connection, job_from_row(row), progress.figures)

    async def enter_stage(self, claim: Claim, stage: Stage, message: str) -> None:
        """Record that the job enters a stage; its progress stays."""
        async with transaction(self._pool) as connection:
            await enter_stage(connection, claim, stage, message)

    async def keep_snapshot(self, claim: Claim, snapshot_id: str) -> None:
        """Remember on which feedback the job trains, for when it is resumed."""
        async with transaction(self._pool) as connection:
            await _fenced(
                connection, claim, "data_snapshot = %(snapshot)s", {"snapshot": snapshot_id}
            )

    async def release(self, claim: Claim) -> None:
        """Let anyone go on with the job at once; the attempt does not count."""
        await self._put_back(claim, "waiting", "attempts = attempts - 1")

    async def retry_later(self, claim: Claim, why: str) -> None:
        """Let anyone try the job again after a while, or fail it when it was tried enough.

        The while doubles with each attempt: 2, 4, 8, 16 seconds.
        """
        attempts = claim.job.attempts
        if attempts >= MAX_ATTEMPTS:
            why = f"{why}; given up after {attempts} attempts"
            await self.finish(claim, Ending(JobState.FAILED, why))
            return
        delay = 2**attempts
        await self._put_back(
            claim,
            f"{why}; trying again in {delay} s",
            "not_before = now() + make_interval(secs => %(delay)s)",
            {"delay": delay},
        )

    async def finish(self, claim: Claim, ending: Ending) -> None:
        """End the job."""
        async with transaction(self._pool) as connection:
            await finish_job(connection, claim, ending)

    async def _put_back(
        self, claim: Claim, message: str, changes: str, values: Mapping[str, Any] | None = None
    ) -> None:
        async with transaction(self._pool) as connection:
            row = await _fenced(
                connection,
                claim,
                "state = 'queued', lease_expires_at = NULL, message = %(message)s,"
                f" {_ENTER_STAGE}, {changes}",
                {**(values or {}), "message": message, "stage": Stage.QUEUED},
            )
            await record_event(connection, job_from_row(row))


async def hold(connection: AsyncConnection, claim: Claim) -> None:
    """Keep the job from being claimed anew until the caller's transaction ends.

    Raises:
        Conflict: If it was claimed by another runner.
    """
    await _fenced(connection, claim, "lease_expires_at = lease_expires_at", {})


async def enter_stage(
    connection: AsyncConnection, claim: Claim, stage: Stage, message: str
) -> None:
    """Enter a stage within the caller's transaction; see `Leases.enter_stage`."""
    row = await _fenced(
        connection,
        claim,
        f"message = %(message)s, {_ENTER_STAGE}",
        {"message": message, "stage": stage},
    )
    await record_event(connection, job_from_row(row))


async def finish_job(connection: AsyncConnection, claim: Claim, ending: Ending) -> None:
    """End a job within the caller's transaction; see `Leases.finish`."""
    row = await _fenced(
        connection,
        claim,
        "state = %(state)s, ended_at = now(), lease_expires_at = NULL, message = %(message)s,"
        " model_version = %(model_version)s, gate = %(gate)s,"
        " progress = CASE WHEN %(state)s = 'succeeded' THEN 1 ELSE progress END",
        {
            "state": str(ending.state),
            "message": ending.message,
            "model_version": ending.model_version,
            "gate": verdict_to_json(ending.gate),
        },
    )
    await record_event(connection, job_from_row(row))


async def _fenced(
    connection: AsyncConnection, claim: Claim, changes: str, values: Mapping[str, Any]
) -> DictRow:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        f"UPDATE trainer.jobs SET {changes}"  # noqa: S608
        " WHERE job_id = %(job_id)s AND fencing_token = %(token)s AND state = 'running'"
        " RETURNING *",
        {**values, "job_id": claim.job.job_id, "token": claim.fencing_token},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Conflict(
            f"job {claim.job.job_id} is no longer held with token {claim.fencing_token}:"
            " another runner has taken it over"
        )
    return row
