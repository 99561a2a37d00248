"""Claims one job after another and has a child process do each."""

import asyncio
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.jobs.child_process import Child, at_work
from services.trainer.jobs.completion import Completion
from services.trainer.jobs.leases import Claim, Ending, Leases
from services.trainer.jobs.queue import JobState
from services.trainer.progress import Progress, Stage
from services.trainer.worker.protocol import (
    Assignment,
    EvaluationDone,
    Failed,
    ProgressMade,
    SnapshotTaken,
    VersionDone,
    read_message,
)
from shared.errors import Conflict, MagFaceError, Unavailable
from shared.model.manifest import Manifest

logger = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "services.trainer.worker")
_POLL_S = 0.3
_HEARTBEAT_S = 0.3

_Result = Failed | EvaluationDone | tuple[Manifest, GateVerdict | None]


def worker_command(processes: int) -> tuple[str, ...]:
    """Start a worker of this many processes on this host."""
    if processes == 1:
        return WORKER
    python, *module = WORKER
    torchrun = (python, "-m", "torch.distributed.run", "--standalone")
    return (*torchrun, "--nproc-per-node", str(processes), *module)


class _Cancelled(Exception):
    """Somebody wants the job to stop."""


class Runner:
    """Does the jobs of the queue, one at a time.

    Args:
        leases: Where jobs are claimed.
        completion: What to do with what a job has made.
        work_dir: Each attempt gets a folder below it, removed at its end.
        command: Starts the worker.
    """

    def __init__(
        self,
        leases: Leases,
        completion: Completion,
        work_dir: Path,
        command: Sequence[str] = WORKER,
    ) -> None:
        self._leases = leases
        self._completion = completion
        self._work_dir = work_dir.absolute()
        self._command = command

    async def run(self) -> None:
        """Do jobs until cancelled; a job under way is then put back for the next runner."""
        while True:
            claim = await self._claim()
            if claim is None:
                await asyncio.sleep(_POLL_S)
            else:
                await self._attempt(claim)

    async def _claim(self) -> Claim | None:
        try:
            return await self._leases.claim()
        except MagFaceError as error:
            logger.warning("no job can be claimed: %s", error)
            return None

    async def _attempt(self, claim: Claim) -> None:
        job = claim.job
        logger.info("job %s: attempt %d", job.job_id, job.attempts)
        try:
            await self._settle(claim)
        except Conflict as error:
            logger.warning("job %s is left to another runner: %s", job.job_id, error)
        except Unavailable as error:
            # The lease runs out, and the job is claimed anew by whoever reaches Postgres.
            logger.warning("job %s is let go: %s", job.job_id, error)
        except asyncio.CancelledError:
            await asyncio.shield(self._release(claim))
            raise

    async def _release(self, claim: Claim) -> None:
        try:
            await self._leases.release(claim)
        except MagFaceError as error:
            logger.warning("job %s waits for its lease to run out: %s", claim.job.job_id, error)

    async def _settle(self, claim: Claim) -> None:
        """Do the job and record how it ended."""
        try:
            result = await self._do(claim)
            match result:
                case Failed():
                    await self._fail(claim, result)
                case EvaluationDone():
                    await self._completion.record_evaluation(claim, result.result)
                case (manifest, gate):
                    await self._completion.record(claim, manifest, gate)
        except _Cancelled as who:
            await self._leases.finish(claim, Ending(JobState.CANCELLED, f"cancelled by {who}"))
        except Conflict:
            raise
        except MagFaceError as error:
            failure = Failed(reason=str(error), transient=isinstance(error, Unavailable))
            await self._fail(claim, failure)
        except Exception as error:
            logger.exception("job %s failed unexpectedly", claim.job.job_id)
            reason = f"internal error: {type(error).__name__}: {error}"
            await self._fail(claim, Failed(reason=reason, transient=False))

    async def _fail(self, claim: Claim, failure: Failed) -> None:
        logger.warning("job %s: %s", claim.job.job_id, failure.reason)
        if failure.transient:
            await self._leases.retry_later(claim, failure.reason)
        else:
            await self._leases.finish(claim, Ending(JobState.FAILED, failure.reason))

    async def _do(self, claim: Claim) -> _Result:
        """Do the job, up to the published files of what it made, while the lease is kept.

        Raises:
            _Cancelled: If somebody wants it to stop; the worker is dead then.
            Unavailable: If the lease could not be kept, or the files not be stored.
            Conflict: If the job was claimed by another runner.
        """
        workdir = await asyncio.to_thread(self._make_workdir, claim)
        keeping = asyncio.create_task(self._keep_lease(claim))
        working = asyncio.create_task(self._work(claim, workdir))
        try:
            await asyncio.wait((keeping, working), return_when=asyncio.FIRST_COMPLETED)
            return await (working if working.done() else keeping)
        finally:
            # No TaskGroup: up to Python 3.12 it loses a cancellation that meets an error.
            working.cancel()
            keeping.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)
            await asyncio.to_thread(shutil.rmtree, workdir, ignore_errors=True)

    def _make_workdir(self, claim: Claim) -> Path:
        attempts = f"job-{claim.job.job_id}"
        # What is there belongs to an attempt that this one has overtaken.
        for left in self._work_dir.glob(f"{attempts}-*"):
            shutil.rmtree(left, ignore_errors=True)
        workdir = self._work_dir / f"{attempts}-{claim.fencing_token}"
        workdir.mkdir(parents=True)
        return workdir

    async def _keep_lease(self, claim: Claim) -> NoReturn:
        renewed = time.monotonic()
        while True:
            try:
                cancelled_by = await self._leases.heartbeat(claim)
            except Unavailable as error:
                if time.monotonic() - renewed > self._leases.lease_s:
                    raise
                logger.warning("job %s: no heartbeat: %s", claim.job.job_id, error)
            else:
                renewed = time.monotonic()
                if cancelled_by is not None:
                    raise _Cancelled(cancelled_by)
            await asyncio.sleep(_HEARTBEAT_S)

    async def _work(self, claim: Claim, workdir: Path) -> _Result:
        job = claim.job
        assignment = Assignment(
            parent_pid=os.getpid(),
            job_id=job.job_id,
            kind=job.kind,
            spec=dict(job.spec),
            data_snapshot=job.data_snapshot,
            workdir=workdir,
        )
        async with at_work(self._command, assignment) as child:
            result = await self._follow(claim, child)
        if isinstance(result, Failed):
            return result
        await self._enter_publishing(claim)
        match result:
            case EvaluationDone():
                await self._completion.publish_page(job, result.page)
                return result
            case VersionDone():
                return await self._completion.publish(job, result.folder), result.gate

    async def _follow(self, claim: Claim, child: Child) -> VersionDone | EvaluationDone | Failed:
        """Record what the worker says until its last message."""
        async for line in child.lines():
            match read_message(line):
                case ProgressMade() as made:
                    await self._report(claim, made)
                case SnapshotTaken(snapshot_id=snapshot_id):
                    await self._leases.keep_snapshot(claim, snapshot_id)
                case VersionDone() | EvaluationDone() | Failed() as last:
                    return last
        return Failed(reason=await child.how_it_ended(), transient=False)

    async def _report(self, claim: Claim, made: ProgressMade) -> None:
        progress = Progress(made.stage, made.fraction, made.message, made.figures)
        try:
            await self._leases.report(claim, progress)
        except Unavailable as error:
            logger.warning("job %s: progress is not recorded: %s", claim.job.job_id, error)

    async def _enter_publishing(self, claim: Claim) -> None:
        try:
            await self._leases.enter_stage(claim, Stage.PUBLISHING, "publishing the result")
        except Unavailable as error:
            logger.warning("job %s: its stage is not recorded: %s", claim.job.job_id, error)
