"""Jobs in Postgres, for those who ask for them; `leases` is for those who do them."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from datetime import datetime
from enum import StrEnum
from math import isfinite
from typing import Any
from uuid import UUID, uuid4

from psycopg import AsyncConnection
from psycopg.rows import DictRow, dict_row
from psycopg.types.json import Jsonb

from services.trainer.evaluation.gate import GateVerdict, verdict_from_json
from services.trainer.progress import Stage, StageStart
from services.trainer.registry.kept_results import KEPT_RESULTS
from services.trainer.worker.specs import JobKind
from shared.errors import NotFound, PreconditionFailed, Unavailable
from shared.storage.idempotency import IdempotencyKey
from shared.storage.postgres import Pool, transaction

_WATCH_INTERVAL_S = 0.2


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Job:
    """One piece of work, as it stands or as it stood at an event.

    Attributes:
        seq: Rises with every job; the queue's order.
        spec: What to do, in the words of its kind.
        progress: Share of the work done, 0..1.
        message: What it is doing or how it ended, for a person to read.
        model_version: What it made or measured, once it has.
        gate: The verdict on what a training or a quantization made; None until it is reached.
        data_snapshot: Feedback that it trains or measures on, once it is frozen.
        attempts: How often it was started.
        stages: Every stage that it has entered, the latest last, in all its attempts; empty
            for a job from before stages were kept.
    """

    job_id: UUID
    seq: int
    kind: JobKind
    spec: Mapping[str, Any]
    requested_by: str
    state: JobState
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    progress: float
    message: str
    model_version: str | None
    gate: GateVerdict | None
    data_snapshot: str | None
    attempts: int
    stages: tuple[StageStart, ...]


@dataclass(frozen=True)
class JobEvent:
    """A job as it stood at one moment, and the figures that came with it."""

    event_id: int
    at: datetime
    job: Job
    figures: Mapping[str, float]


class Jobs:
    """Creates, lists, follows and cancels jobs.

    Every method raises `Unavailable` when Postgres cannot be reached.

    Args:
        pool: Connections to a database with the schema `trainer`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create(
        self,
        kind: JobKind,
        spec: Mapping[str, Any],
        requested_by: str,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """Queue a job, or give the one that was queued under the key.

        Raises:
            AlreadyExists: If the key was used for something else.
        """
        async with transaction(self._pool) as connection:
            if kept := await KEPT_RESULTS.claim(connection, key):
                return await _get(connection, UUID(kept["job_id"]))
            job = await create_job(connection, kind, spec, requested_by)
            await KEPT_RESULTS.save(connection, key, {"job_id": str(job.job_id)})
            return job

    async def find_by_key(self, key: IdempotencyKey | None) -> Job | None:
        """Give the job that was queued under a key, as it stands; None when there is none.

        Raises:
            AlreadyExists: If the key was used for something else.
        """
        if key is None:
            return None
        async with transaction(self._pool) as connection:
            kept = await KEPT_RESULTS.find(connection, key)
            return await _get(connection, UUID(kept["job_id"])) if kept else None

    async def get(self, job_id: UUID) -> Job:
        """Give a job as it stands.

        Raises:
            NotFound: If there is none of that id.
        """
        async with transaction(self._pool) as connection:
            return await _get(connection, job_id)

    async def list(self, size: int, before: int | None = None) -> Sequence[Job]:
        """List up to `size` jobs, newest first, those with a `seq` under `before` only."""
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                "SELECT * FROM trainer.jobs WHERE %(before)s::bigint IS NULL OR seq < %(before)s"
                " ORDER BY seq DESC LIMIT %(size)s",
                {"before": before, "size": size},
            )
            return [job_from_row(row) async for row in cursor]

    async def watch(self, job_id: UUID, stopping: asyncio.Event) -> AsyncIterator[JobEvent]:
        """Give the job's events from its beginning, then as they come, until it ends.

        Raises:
            NotFound: If there is no job of that id.
            Unavailable: If `stopping` is set before the job ends.
        """
        seen = 0
        while True:
            for event in await self._events(job_id, after=seen):
                yield event
                seen = event.event_id
                if event.job.state.ended:
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _WATCH_INTERVAL_S)
                raise Unavailable("the trainer stops; watch the job again when it is back")

    async def _events(self, job_id: UUID, after: int) -> Sequence[JobEvent]:
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            # Events first: the job is then at least as far as the last of them.
            await cursor.execute(
                "SELECT * FROM trainer.job_events WHERE job_id = %s AND event_id > %s"
                " ORDER BY event_id",
                (job_id, after),
            )
            events = await cursor.fetchall()
            job = await _get(connection, job_id)
        return [_event(job, row) for row in events]

    async def cancel(self, job_id: UUID, requested_by: str, key: str | None = None) -> Job:
        """Ask a job to stop: at once when it waits, soon when it runs.

        Args:
            job_id: The job.
            requested_by: Who asks.
            key: Idempotency key; when it was used before, the job is given as it stands.

        Raises:
            NotFound: If there is no job of that id.
            PreconditionFailed: If it has ended.
            AlreadyExists: If the key was used for something else.
        """
        once = IdempotencyKey.of(requested_by, key, "cancel", job_id=str(job_id))
        async with transaction(self._pool) as connection:
            if await KEPT_RESULTS.claim(connection, once):
                return await _get(connection, job_id)
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(
                "SELECT state FROM trainer.jobs WHERE job_id = %s FOR UPDATE", (job_id,)
            )
            state = JobState(_found(await cursor.fetchone(), job_id)["state"])
            if state.ended:
                raise PreconditionFailed(f"job {job_id} cannot be cancelled: it has {state}")
            changes = (
                "state = 'cancelled', ended_at = now(), message = 'cancelled by ' || %(who)s::text"
                if state is JobState.QUEUED
                else "message = 'being cancelled by ' || %(who)s::text"
            )
            await cursor.execute(
                f"UPDATE trainer.jobs SET cancelled_by = %(who)s, {changes}"  # noqa: S608
                " WHERE job_id = %(job_id)s RETURNING *",
                {"who": requested_by, "job_id": job_id},
            )
            job = job_from_row(_found(await cursor.fetchone(), job_id))
            await record_event(connection, job)
            await KEPT_RESULTS.save(connection, once, {"job_id": str(job_id)})
            return job


async def create_job(
    connection: AsyncConnection, kind: JobKind, spec: Mapping[str, Any], requested_by: str
) -> Job:
    """Queue a job within the caller's transaction; see `Jobs.create`."""
    job_id = uuid4()
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        "INSERT INTO trainer.jobs (job_id, kind, spec, requested_by)"
        " VALUES (%s, %s, %s, %s) RETURNING *",
        (job_id, kind, Jsonb(spec), requested_by),
    )
    job = job_from_row(_found(await cursor.fetchone(), job_id))
    await record_event(connection, job)
    return job


async def record_event(
    connection: AsyncConnection, job: Job, figures: Mapping[str, float] | None = None
) -> None:
    """Keep how the job stands now; the caller holds the lock of its row.

    Figures that are no number (a loss that diverged) are left out: jsonb has none.
    """
    finite = {name: value for name, value in (figures or {}).items() if isfinite(value)}
    await connection.execute(
        "INSERT INTO trainer.job_events"
        " (job_id, state, progress, message, figures, stages_entered)"
        " VALUES (%s, %s, %s, %s, %s, %s)",
        (job.job_id, job.state, job.progress, job.message, Jsonb(finite), len(job.stages)),
    )


def job_from_row(row: DictRow) -> Job:
    """Read a row of `trainer.jobs`."""
    values = {field.name: row[field.name] for field in fields(Job)}
    values["kind"] = JobKind(row["kind"])
    values["state"] = JobState(row["state"])
    values["gate"] = verdict_from_json(row["gate"])
    values["stages"] = tuple(
        StageStart(Stage(entry["stage"]), datetime.fromisoformat(entry["started_at"]))
        for entry in row["stages"]
    )
    return Job(**values)


async def _get(connection: AsyncConnection, job_id: UUID) -> Job:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute("SELECT * FROM trainer.jobs WHERE job_id = %s", (job_id,))
    return job_from_row(_found(await cursor.fetchone(), job_id))


def _found(row: DictRow | None, job_id: UUID) -> DictRow:
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return row


def _event(job: Job, row: DictRow) -> JobEvent:
    """Set the job back to how it stood at the event."""
    state = JobState(row["state"])
    then = replace(
        job,
        state=state,
        progress=row["progress"],
        message=row["message"],
        stages=job.stages[: row["stages_entered"]],
    )
    if not state.ended:
        then = replace(then, ended_at=None, model_version=None, gate=None)
    return JobEvent(row["event_id"], row["at"], then, row["figures"])
