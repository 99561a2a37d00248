"""Protocol between the runner and its worker: one JSON document per line."""

import time
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.evaluation.result import EvaluationResult
from services.trainer.progress import Progress, Stage
from services.trainer.worker.memory import MemoryLimit
from services.trainer.worker.specs import JobKind
from shared.errors import MagFaceError, Overloaded, Unavailable, details_of

_PROGRESS_INTERVAL_S = 1.0


class _Message(BaseModel):
    # A training that diverges reports NaN, which JSON has no number for.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Assignment(_Message):
    """The job, written to the worker's stdin, which stays open as long as the runner runs.

    Attributes:
        parent_pid: Process id of the runner; the worker ends with it.
        data_snapshot: Snapshot that an earlier attempt made; None for the first attempt.
        base_version: The version to work on if the spec names none; None if no version serves.
        target_fmr: The operator's target false-match rate when the work began; None for none.
        workdir: An empty folder of this attempt.
        memory_limit: Most memory of the process; None for no limit.
    """

    parent_pid: int
    job_id: UUID
    kind: JobKind
    spec: dict[str, Any]
    data_snapshot: str | None
    base_version: str | None = None
    target_fmr: float | None = None
    workdir: Path
    memory_limit: MemoryLimit | None = None


class ProgressMade(_Message):
    """See `services.trainer.progress.Progress`."""

    type: Literal["progress"] = "progress"
    stage: Stage
    fraction: float = Field(ge=0, le=1)
    message: str
    figures: dict[str, float] = {}


class SnapshotTaken(_Message):
    """The data snapshot of the job; later attempts must be assigned the same one."""

    type: Literal["snapshot"] = "snapshot"
    snapshot_id: str


class VersionDone(_Message):
    """Last message of a job that made a version.

    Attributes:
        folder: The version's files, ready to publish.
        gate: The gate's verdict.
        remark: What else a person should know, for the job's message; may be empty.
    """

    type: Literal["version"] = "version"
    folder: Path
    gate: GateVerdict
    remark: str = ""


class EvaluationDone(_Message):
    """Last message of a job that evaluated a version.

    Attributes:
        page: The HTML page that shows the result.
        remark: See `VersionDone`.
    """

    type: Literal["evaluation"] = "evaluation"
    result: EvaluationResult
    page: Path
    remark: str = ""


class VerdictDone(_Message):
    """Last message of a job that judged a version again.

    Attributes:
        model_version: The version.
        gate: Its new verdict.
        remark: See `VersionDone`.
    """

    type: Literal["verdict"] = "verdict"
    model_version: str
    gate: GateVerdict
    remark: str = ""


class Failed(_Message):
    """Last message of a job that cannot be done.

    Attributes:
        reason: Explanation for a person.
        detail: What only the log may name, see `MagFaceError`.
        transient: Whether something that it needs could not be reached or had no capacity, so
            that a later attempt may succeed.
    """

    type: Literal["failed"] = "failed"
    reason: str
    detail: str = ""
    transient: bool

    @classmethod
    def of(cls, error: MagFaceError) -> "Failed":
        return cls(
            reason=str(error),
            detail=details_of(error),
            transient=isinstance(error, Unavailable | Overloaded),
        )


Result = VersionDone | EvaluationDone | VerdictDone
"""Last message of a job that is done."""

Message = ProgressMade | SnapshotTaken | Result | Failed
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def read_message(line: bytes) -> Message:
    """Parse one line of a worker's stdout.

    Raises:
        pydantic.ValidationError: If it is no message.
    """
    return _MESSAGE.validate_json(line)


class MessageWriter:
    """Writes a worker's messages.

    Args:
        pipe: Where to; each message is flushed.
    """

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._last_report: tuple[Stage | None, str] = (None, "")
        self._last_report_at = 0.0

    def write(self, message: Message) -> None:
        """Write a message."""
        self._pipe.write(message.model_dump_json().encode() + b"\n")
        self._pipe.flush()

    def report(self, progress: Progress) -> None:
        """Write the progress: a new stage or message at once, otherwise at most once a second."""
        now = time.monotonic()
        current = (progress.stage, progress.message)
        if current == self._last_report and now - self._last_report_at < _PROGRESS_INTERVAL_S:
            return
        self._last_report, self._last_report_at = current, now
        self.write(
            ProgressMade(
                stage=progress.stage,
                fraction=progress.fraction,
                message=progress.message,
                figures=dict(progress.figures),
            )
        )
