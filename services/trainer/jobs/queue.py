"""Queue of jobs in Postgres: create, list, watch and cancel.

Clients use this module; runners use `services.trainer.jobs.leases`.
"""

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
from services.trainer.jobs import queries
from services.trainer.progress import Stage, StageStart
from services.trainer.registry.idempotency import CALL_RESULTS
from services.trainer.settings import MOST_QUEUED_JOBS
from services.trainer.worker.specs import JobKind
from shared.errors import NotFound, Overloaded, PreconditionFailed, Unavailable
from shared.storage.idempotency import IdempotencyKey
from shared.storage.postgres import Pool, transaction

_WATCH_INTERVAL_S = 0.2
_RETRY_AFTER_S = 60.0


class JobState(StrEnum):
    """State of a job; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the state is final."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, kw_only=True)
class Job:
    """A job, as it is now or as it was at an event.

    Attributes:
        seq: Number of the job, rising; jobs are claimed in this order.
        spec: Parameters of the job, as JSON; see `services.trainer.worker.specs`.
        progress: Share of the work done, 0..1.
        message: Current activity or outcome, for people.
        model_version: Version that the job made or evaluated; None until it has succeeded.
        gate: Verdict on the candidate of a training or quantization; None before it is decided.
        data_snapshot: Data snapshot of a training or evaluation; None before it is taken.
        base_version: The version to work on if the spec names none: the one that served when the
            work began; None if none served then, or before the job was started.
        target_fmr: The false-match rate that versions had to keep when the work began; None for
            none.
        attempts: How often the job was started, without the starts that ended because the trainer
            stopped or something could not be reached.
        stages: Stages that the job has entered in all of its attempts, oldest first; empty for
            jobs that are older than stages.
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
    base_version: str | None
    target_fmr: float | None
    attempts: int
    stages: tuple[StageStart, ...]


@dataclass(frozen=True)
class JobEvent:
    """A job as it was at one moment, and the figures reported then."""

    event_id: int
    at: datetime
    job: Job
    figures: Mapping[str, float]


class JobQueue:
    """Creates, lists, watches and cancels jobs.

    Every method raises `Unavailable` if Postgres cannot be reached.

    Args:
        pool: Connections to a database with the schema `trainer`.
        most_queued: Jobs that wait, above which further ones are refused.
    """

    def __init__(self, pool: Pool, most_queued: int = MOST_QUEUED_JOBS) -> None:
        self._pool = pool
        self._most_queued = most_queued

    async def create(
        self,
        kind: JobKind,
        spec: Mapping[str, Any],
        requested_by: str,
        key: IdempotencyKey | None = None,
    ) -> Job:
        """Queue a job, or return the one that was queued with the same key.

        Raises:
            AlreadyExists: If the key was used for another request.
            Overloaded: If too many jobs wait.
        """
        async with transaction(self._pool) as connection:
            if saved := await CALL_RESULTS.claim(connection, key):
                return await _get(connection, UUID(saved["job_id"]))
            await self._require_room(connection)
            job = await create_job(connection, kind, spec, requested_by)
            await CALL_RESULTS.save(connection, key, {"job_id": str(job.job_id)})
            return job

    async def _require_room(self, connection: AsyncConnection) -> None:
        cursor = await connection.execute(queries.COUNT_QUEUED)
        (queued,) = await cursor.fetchone() or (0,)
        if queued >= self._most_queued:
            raise Overloaded(
                f"{queued} jobs wait already, the trainer's MAGFACE_QUEUED_JOBS; cancel some, or"
                " try again when some have ended",
                _RETRY_AFTER_S,
            )

    async def find_by_key(self, key: IdempotencyKey | None) -> Job | None:
        """Return the job that was queued with this key, as it is now; None if there is none.

        Raises:
            AlreadyExists: If the key was used for another request.
        """
        if key is None:
            return None
        async with transaction(self._pool) as connection:
            saved = await CALL_RESULTS.find(connection, key)
            return await _get(connection, UUID(saved["job_id"])) if saved else None

    async def find_import(self, content: Mapping[str, Any]) -> Job | None:
        """Return the import of the same file with the same options; None if there is none.

        Args:
            content: Its `ImportSpec` in JSON, without the name of the file.
        """
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            values = {"upload": content["upload"], "content": Jsonb(content)}
            await cursor.execute(queries.SAME_IMPORT, values)
            row = await cursor.fetchone()
            return job_from_row(row) if row else None

    async def get(self, job_id: UUID) -> Job:
        """Return a job as it is now.

        Raises:
            NotFound: If there is no such job.
        """
        async with transaction(self._pool) as connection:
            return await _get(connection, job_id)

    async def list(self, size: int, before: int | None = None) -> Sequence[Job]:
        """List up to `size` jobs, newest first; with `before`, only those with a smaller `seq`."""
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(queries.LIST_JOBS, {"before": before, "size": size})
            return [job_from_row(row) async for row in cursor]

    async def watch(self, job_id: UUID, stopping: asyncio.Event) -> AsyncIterator[JobEvent]:
        """Yield all events of a job, past and future, until the job ends.

        Raises:
            NotFound: If there is no such job.
            Unavailable: If `stopping` is set before the job ends.
        """
        last_event_id = 0
        while True:
            for event in await self._events(job_id, after=last_event_id):
                yield event
                last_event_id = event.event_id
                if event.job.state.ended:
                    return
            with suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), _WATCH_INTERVAL_S)
                raise Unavailable("the trainer is stopping; watch the job again later")

    async def _events(self, job_id: UUID, after: int) -> Sequence[JobEvent]:
        async with transaction(self._pool) as connection:
            cursor = connection.cursor(row_factory=dict_row)
            # Before the job: so the job has every stage that these events count.
            await cursor.execute(queries.EVENTS_AFTER, {"job_id": job_id, "after": after})
            events = await cursor.fetchall()
            job = await _get(connection, job_id)
        return [_job_event(job, row) for row in events]

    async def cancel(self, job_id: UUID, requested_by: str, key: str | None = None) -> Job:
        """Cancel a job: a queued one at once, a running one as soon as its runner sees it.

        Args:
            job_id: The job.
            requested_by: Who asks.
            key: Idempotency key. If it was used before, the job is returned as it is now.

        Raises:
            NotFound: If there is no such job.
            PreconditionFailed: If it has ended.
            AlreadyExists: If the key was used for another request.
        """
        idempotency_key = IdempotencyKey.of(requested_by, key, "cancel", job_id=str(job_id))
        async with transaction(self._pool) as connection:
            if await CALL_RESULTS.claim(connection, idempotency_key):
                return await _get(connection, job_id)
            job = await _get(connection, job_id, queries.LOCK_JOB)
            if job.state.ended:
                raise PreconditionFailed(f"job {job_id} cannot be cancelled: it has {job.state}")
            query = (
                queries.CANCEL_QUEUED
                if job.state is JobState.QUEUED
                else queries.REQUEST_CANCELLATION
            )
            cursor = connection.cursor(row_factory=dict_row)
            await cursor.execute(query, {"job_id": job_id, "requested_by": requested_by})
            job = job_from_row(_found(await cursor.fetchone(), job_id))
            await record_event(connection, job)
            await CALL_RESULTS.save(connection, idempotency_key, {"job_id": str(job_id)})
            return job


async def create_job(
    connection: AsyncConnection, kind: JobKind, spec: Mapping[str, Any], requested_by: str
) -> Job:
    """Queue a job in the caller's transaction; see `JobQueue.create`."""
    job_id = uuid4()
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(
        queries.INSERT_JOB,
        {"job_id": job_id, "kind": kind, "spec": Jsonb(spec), "requested_by": requested_by},
    )
    job = job_from_row(_found(await cursor.fetchone(), job_id))
    await record_event(connection, job)
    return job


async def record_event(
    connection: AsyncConnection, job: Job, figures: Mapping[str, float] | None = None
) -> None:
    """Record the present state of a job as an event; the caller holds the lock of its row.

    Figures that are not finite (the loss of a training that diverges) are left out, because
    jsonb cannot store them.
    """
    finite = {name: value for name, value in (figures or {}).items() if isfinite(value)}
    await connection.execute(
        queries.INSERT_EVENT,
        {
            "job_id": job.job_id,
            "state": job.state,
            "progress": job.progress,
            "message": job.message,
            "figures": Jsonb(finite),
            "stages_entered": len(job.stages),
        },
    )


def job_from_row(row: DictRow) -> Job:
    """Convert a row of `trainer.jobs`."""
    values = {field.name: row[field.name] for field in fields(Job)}
    values["kind"] = JobKind(row["kind"])
    values["state"] = JobState(row["state"])
    values["gate"] = verdict_from_json(row["gate"])
    values["stages"] = tuple(
        StageStart(Stage(entry["stage"]), datetime.fromisoformat(entry["started_at"]))
        for entry in row["stages"]
    )
    return Job(**values)


async def _get(connection: AsyncConnection, job_id: UUID, query: str = queries.GET_JOB) -> Job:
    cursor = connection.cursor(row_factory=dict_row)
    await cursor.execute(query, {"job_id": job_id})
    return job_from_row(_found(await cursor.fetchone(), job_id))


def _found(row: DictRow | None, job_id: UUID) -> DictRow:
    if row is None:
        raise NotFound(f"there is no job {job_id}")
    return row


def _job_event(job: Job, row: DictRow) -> JobEvent:
    """Combine an event with the job as it was at that event."""
    state = JobState(row["state"])
    job_then = replace(
        job,
        state=state,
        progress=row["progress"],
        message=row["message"],
        stages=job.stages[: row["stages_entered"]],
    )
    if not state.ended:
        job_then = replace(job_then, ended_at=None, model_version=None, gate=None)
    return JobEvent(row["event_id"], row["at"], job_then, row["figures"])
