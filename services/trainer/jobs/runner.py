"""Runner of jobs: claims a job, has a worker process do it, and completes it."""

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from services.trainer.jobs.child_process import WorkerProcess, start_worker
from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.folders import JobFolders
from services.trainer.jobs.leases import JobClaim, JobEnding, JobLeases
from services.trainer.jobs.outages import plan_pause
from services.trainer.jobs.queue import JobState
from services.trainer.progress import Progress, Stage
from services.trainer.worker.memory import MemoryLimit
from services.trainer.worker.protocol import (
    Assignment,
    EvaluationDone,
    Failed,
    ProgressMade,
    Result,
    SnapshotTaken,
    VerdictDone,
    VersionDone,
    read_message,
)
from services.trainer.worker.specs import JobKind
from shared.errors import Conflict, MagFaceError, PreconditionFailed, Unavailable
from shared.model.manifest import Manifest
from shared.runtime import repeat

logger = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "services.trainer.worker")
_POLL_S = 0.3
_HEARTBEAT_S = 0.3

_Awaited = TypeVar("_Awaited")
# Last message of a worker.
_Output = Result | Failed
# A failure, or what was published: an evaluation, a verdict, or the manifest of a version.
_Result = Failed | EvaluationDone | VerdictDone | tuple[Manifest, VersionDone]


def worker_command(processes: int) -> tuple[str, ...]:
    """Return the command that starts a worker of this many processes on this host."""
    if processes == 1:
        return WORKER
    python, *module = WORKER
    torchrun = (python, "-m", "torch.distributed.run", "--standalone")
    return (*torchrun, "--nproc-per-node", str(processes), *module)


class _Cancelled(Exception):
    """Somebody, named by the text, has asked for the job to be cancelled."""


class JobRunner:
    """Runs the jobs of the queue, one at a time.

    Each job is claimed, worked on by a worker process while the lease is renewed, and completed:
    `JobCompletion` publishes and records what it made, and promotes a version if that is due.

    Args:
        leases: Where jobs are claimed.
        completion: Publishes and records the results.
        folders: Each attempt gets one, which is removed at the end of the attempt.
        command: Starts the worker.
        memory_limit: Gives the limit for the worker of a kind of job; None for no limit.
    """

    def __init__(
        self,
        leases: JobLeases,
        completion: JobCompletion,
        folders: JobFolders,
        command: Sequence[str] = WORKER,
        memory_limit: Callable[[JobKind], MemoryLimit | None] = lambda _: None,
    ) -> None:
        self._leases = leases
        self._completion = completion
        self._folders = folders
        self._command = command
        self._memory_limit = memory_limit

    async def run(self) -> NoReturn:
        """Run jobs until cancelled; a running job is then put back into the queue."""
        await repeat("claiming of jobs", self._run_queued, _POLL_S)

    async def _run_queued(self) -> None:
        while claim := await self._leases.claim():
            await self._attempt(claim)

    async def _attempt(self, claim: JobClaim) -> None:
        """Run a claimed job to its end, unless another runner has to."""
        job = claim.job
        logger.info("job %s: attempt %d", job.job_id, job.attempts)
        try:
            await self._run(claim)
        except Conflict as error:
            logger.warning("job %s is left to another runner: %s", job.job_id, error)
        except MagFaceError as error:
            logger.warning("job %s is abandoned until its lease expires: %s", job.job_id, error)
        except asyncio.CancelledError:
            await asyncio.shield(self._release(claim))
            raise

    async def _release(self, claim: JobClaim) -> None:
        try:
            await self._leases.release(claim)
        except MagFaceError as error:
            logger.warning(
                "job %s is not released and waits until its lease expires: %s",
                *(claim.job.job_id, error),
            )

    async def _run(self, claim: JobClaim) -> None:
        """Run a job and record how it ended."""
        try:
            result = await self._work_under_lease(claim)
            await self._wait_out(claim, partial(self._complete, claim, result))
        except _Cancelled as cancelled_by:
            message = f"cancelled by {cancelled_by}"
            await self._leases.finish(claim, JobEnding(JobState.CANCELLED, message))
        except Conflict:
            raise
        except MagFaceError as error:
            await self._wait_out(claim, partial(self._fail, claim, Failed.of(error)))
        except Exception as error:
            logger.exception("job %s failed unexpectedly", claim.job.job_id)
            message = f"internal error: {type(error).__name__}; see the log of the trainer"
            await self._fail(claim, Failed(reason=message, transient=False))

    async def _complete(self, claim: JobClaim, result: _Result) -> None:
        match result:
            case Failed():
                await self._fail(claim, result)
            case EvaluationDone():
                await self._completion.record_evaluation(claim, result.result, result.remark)
            case VerdictDone():
                await self._completion.record_verdict(claim, result)
            case (manifest, made):
                await self._completion.record_version(claim, manifest, made.gate, made.remark)

    async def _fail(self, claim: JobClaim, failure: Failed) -> None:
        logger.warning("job %s failed: %s %s", claim.job.job_id, failure.reason, failure.detail)
        if failure.transient:
            await self._leases.retry_later(claim, failure.reason)
        else:
            await self._leases.finish(claim, JobEnding(JobState.FAILED, failure.reason))

    async def _work_under_lease(self, claim: JobClaim) -> _Result:
        """Do the job and publish what it made, while the lease is renewed.

        Raises:
            _Cancelled: If somebody has asked for that; the worker has been killed then.
            Unavailable: If the lease could not be renewed or the files not be stored.
            Conflict: If another runner has claimed the job.
        """
        async with self._folders.open(claim) as workdir:
            renewal = asyncio.create_task(self._renew_lease(claim))
            work = asyncio.create_task(self._work(claim, workdir))
            try:
                await asyncio.wait((renewal, work), return_when=asyncio.FIRST_COMPLETED)
                return await (work if work.done() else renewal)
            finally:
                # No TaskGroup: until Python 3.12 it loses a cancellation that meets an error.
                work.cancel()
                renewal.cancel()
                await asyncio.gather(work, renewal, return_exceptions=True)

    async def _renew_lease(self, claim: JobClaim) -> NoReturn:
        renewed_at = time.monotonic()
        longest_s = max(self._leases.lease_s, self._leases.outage_limit_s)
        while True:
            try:
                cancelled_by = await self._leases.renew(claim)
            except Conflict:
                raise
            except Exception as error:
                # While Postgres is away, nobody else can claim the job either.
                if time.monotonic() - renewed_at > longest_s:
                    raise
                logger.warning("job %s: lease not renewed: %s", claim.job.job_id, error)
            else:
                renewed_at = time.monotonic()
                if cancelled_by is not None:
                    raise _Cancelled(cancelled_by)
            await asyncio.sleep(_HEARTBEAT_S)

    async def _work(self, claim: JobClaim, workdir: Path) -> _Result:
        """Have a worker do the job, and publish the files it made."""
        job = claim.job
        assignment = Assignment(
            parent_pid=os.getpid(),
            job_id=job.job_id,
            kind=job.kind,
            spec=dict(job.spec),
            data_snapshot=job.data_snapshot,
            base_version=job.base_version,
            target_fmr=job.target_fmr,
            workdir=workdir,
            memory_limit=self._memory_limit(job.kind),
        )
        async with start_worker(self._command, assignment) as worker:
            output = await self._follow(claim, worker)
        if isinstance(output, Failed):
            return output
        return await self._wait_out(claim, partial(self._publish, claim, output))

    async def _publish(
        self, claim: JobClaim, output: Result
    ) -> EvaluationDone | VerdictDone | tuple[Manifest, VersionDone]:
        # Also makes sure that the job is still held, as it may not be after an outage.
        await self._leases.enter_stage(claim, Stage.PUBLISHING, "publishing the result")
        match output:
            case EvaluationDone():
                await self._completion.publish_report(claim.job, output.page)
                return output
            case VerdictDone():
                return output
            case VersionDone():
                manifest = await self._completion.publish_version(claim.job, output.folder)
                return manifest, output

    async def _follow(self, claim: JobClaim, worker: WorkerProcess) -> _Output:
        """Record what the worker reports, until its last message."""
        async for line in worker.lines():
            match read_message(line):
                case ProgressMade() as message:
                    await self._record_progress(claim, message)
                case SnapshotTaken(snapshot_id=snapshot_id):
                    record = partial(self._leases.set_snapshot, claim, snapshot_id)
                    await self._wait_out(claim, record)
                    await self._announce_snapshot(claim, snapshot_id)
                case VersionDone() | EvaluationDone() | VerdictDone() | Failed() as last:
                    return last
        return Failed(reason=await worker.describe_end(), transient=False)

    async def _record_progress(self, claim: JobClaim, message: ProgressMade) -> None:
        progress = Progress(message.stage, message.fraction, message.message, message.figures)
        try:
            await self._leases.record_progress(claim, progress)
        except Unavailable as error:
            logger.warning("job %s: progress not recorded: %s", claim.job.job_id, error)

    async def _announce_snapshot(self, claim: JobClaim, snapshot_id: str) -> None:
        try:
            await self._folders.set_snapshot(claim, snapshot_id)
        except Unavailable as error:
            logger.warning("job %s: copies of any image are announced: %s", claim.job.job_id, error)

    async def _wait_out(
        self, claim: JobClaim, attempt: Callable[[], Awaitable[_Awaited]]
    ) -> _Awaited:
        """Await `attempt` until the stores that it needs can be reached.

        Raises:
            PreconditionFailed: If the outage is longer than the limit.
        """
        failed_at: float | None = None
        while True:
            try:
                return await attempt()
            except Unavailable as error:
                failed_at = failed_at or time.monotonic()
                waited_s = time.monotonic() - failed_at
                pause = plan_pause(str(error), waited_s, self._leases.outage_limit_s)
                if pause.seconds is None:
                    raise PreconditionFailed(pause.message) from error
                logger.warning("job %s waits: %s", claim.job.job_id, error)
            with suppress(Unavailable):
                await self._leases.set_message(claim, pause.message)
            await asyncio.sleep(pause.seconds)
