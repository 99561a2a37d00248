"""Progress of a trainer's job, and tables of its result."""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final

from magface.v1 import trainer_pb2
from magface.v1.trainer_pb2_grpc import TrainerServiceStub
from rich.console import Group, RenderableType
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from cli.clients import CALL_TIMEOUT_S
from cli.output import facts, in_words, messages, short_time, table, to_plain
from shared.errors import MagFaceError, Unavailable
from shared.rpc.errors import domain_errors

# The trainer resumes its jobs after a restart, so a watch resumes too.
_LONGEST_OUTAGE_S: Final = 600.0
_NO_TARGET: Final = (
    "It was judged at equal error weights, where no candidate may beat a parent whose threshold is "
    "strict. `magface models operating-point --fmr RATE` sets the rate to judge at."
)
_COMPARISONS: Final = ("heldout_errors", "heldout_gain")


def wait_for_job(
    stub: TrainerServiceStub,
    job: trainer_pb2.Job,
    on_event: Callable[[trainer_pb2.WatchJobResponse], None] = lambda _: None,
) -> trainer_pb2.Job:
    """Shows a job's progress until it has succeeded.

    Args:
        stub: The trainer.
        job: The job, as it was queued.
        on_event: Gets each event.

    Raises:
        MagFaceError: It failed or was cancelled.
    """
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        TextColumn("{task.description}", markup=False),
        console=messages,
        transient=True,
        disable=not messages.is_terminal,
    ) as progress:
        task = progress.add_task(job.message, total=1.0)

        def show(event: trainer_pb2.WatchJobResponse) -> None:
            progress.update(task, completed=event.job.progress, description=event.job.message)
            on_event(event)

        ended = follow_job(stub, job.job_id, show)
    if ended.state != trainer_pb2.JOB_STATE_SUCCEEDED:
        state = to_plain(ended)["state"]
        raise MagFaceError(f"job {ended.job_id} {state}: {ended.message}")
    return ended


def follow_job(
    stub: TrainerServiceStub,
    job_id: str,
    on_event: Callable[[trainer_pb2.WatchJobResponse], None],
) -> trainer_pb2.Job:
    """Passes each event on once, across restarts of the trainer, and returns the ended job.

    Raises:
        Unavailable: The trainer does not answer for ten minutes; the job is not affected.
    """
    seen = 0
    lost_at: float | None = None
    while True:
        try:
            with domain_errors():
                stream = stub.WatchJob(trainer_pb2.WatchJobRequest(job_id=job_id))
                for number, event in enumerate(stream):
                    lost_at = None
                    if number >= seen:
                        seen = number + 1
                        on_event(event)
                request = trainer_pb2.GetJobRequest(job_id=job_id)
                job = stub.GetJob(request, timeout=CALL_TIMEOUT_S).job
            if job.HasField("ended_at"):
                return job
        except Unavailable as error:
            lost_at = lost_at or time.monotonic()
            if time.monotonic() - lost_at > _LONGEST_OUTAGE_S:
                raise Unavailable(
                    f"{error}; job {job_id} goes on when the trainer is back: follow it with"
                    f" `magface jobs watch {job_id}`"
                ) from error
        time.sleep(0.5)


def job_facts(job: trainer_pb2.Job) -> RenderableType:
    """Shows a job, its stages and the checks of its gate."""
    plain = to_plain(job)
    gate, _ = plain.pop("gate"), plain.pop("stages")
    plain["stage"] = in_words(plain["stage"])
    parts: list[RenderableType] = [facts(plain)]
    if job.stages:
        parts.append(_stage_table(job))
    if gate is not None:
        parts.append(gate_table(gate))
    return Group(*parts)


def stage_durations(job: trainer_pb2.Job) -> list[tuple[str, float]]:
    """Gives each stage that a job has entered, with its duration in seconds.

    The last stage lasts until the job's end, or until now.
    """
    starts = [start.started_at.ToDatetime(UTC) for start in job.stages]
    end = job.ended_at.ToDatetime(UTC) if job.HasField("ended_at") else datetime.now(UTC)
    return [
        (to_plain(start)["stage"], (after - began).total_seconds())
        for start, began, after in zip(job.stages, starts, [*starts[1:], end], strict=True)
    ]


def _stage_table(job: trainer_pb2.Job) -> RenderableType:
    rows = [
        [in_words(stage), short_time(to_plain(start)["started_at"]), f"{seconds:.1f}"]
        for start, (stage, seconds) in zip(job.stages, stage_durations(job), strict=True)
    ]
    return table("stage", "started", "seconds", rows=rows)


def gate_table(gate: dict[str, Any]) -> RenderableType:
    """Shows the checks of a gate."""
    rows = [
        [
            check["name"],
            Text("passed") if check["passed"] else Text("refused", style="red"),
            f"{check['value']:.4g}",
            f"{check['limit']:.4g}",
            check["detail"],
        ]
        for check in gate["checks"]
    ]
    title = "passed the gate" if gate["passed"] else "refused by the gate"
    checks = table(
        "check", "verdict", "value", "limit", "detail", rows=rows, title=title, text=["detail"]
    )
    lost = any(one["name"] in _COMPARISONS and not one["passed"] for one in gate["checks"])
    return Group(checks, Text(_NO_TARGET)) if lost and gate.get("target_fmr") is None else checks
