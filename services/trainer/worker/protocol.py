"""What the runner and its worker say to each other: one JSON document a line."""

import time
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.evaluation.result import EvaluationResult
from services.trainer.progress import Progress, Stage
from services.trainer.worker.specs import JobKind


class _Message(BaseModel):
    # A training that diverges has NaN to report, which JSON cannot write as a number.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")


class Assignment(_Message):
    """The job, to the worker's stdin, which then stays open for as long as the runner lives.

    Attributes:
        parent_pid: The runner's process; the worker ends with it.
        data_snapshot: Feedback that an earlier attempt froze.
        workdir: An empty folder of this attempt's own.
    """

    parent_pid: int
    job_id: UUID
    kind: JobKind
    spec: dict[str, Any]
    data_snapshot: str | None
    workdir: Path


class ProgressMade(_Message):
    """See `services.trainer.progress.Progress`."""

    type: Literal["progress"] = "progress"
    stage: Stage
    fraction: float = Field(ge=0, le=1)
    message: str
    figures: dict[str, float] = {}


class SnapshotTaken(_Message):
    """The feedback is frozen; a later attempt must be assigned this snapshot."""

    type: Literal["snapshot"] = "snapshot"
    snapshot_id: str


class Done(_Message):
    """The last message of a job that made a version.

    Attributes:
        folder: The version's files, ready to publish.
        gate: None when nobody judged it, as for an import.
    """

    type: Literal["done"] = "done"
    folder: Path
    gate: GateVerdict | None


class Measured(_Message):
    """The last message of a job that measured a version.

    Attributes:
        page: The file that shows the result.
    """

    type: Literal["measured"] = "measured"
    result: EvaluationResult
    page: Path


class Failed(_Message):
    """The last message of a job that cannot be done.

    Attributes:
        why: For a person to read.
        transient: Something it needs was away; the same may succeed later.
    """

    type: Literal["failed"] = "failed"
    why: str
    transient: bool


Message = ProgressMade | SnapshotTaken | Done | Measured | Failed
_MESSAGE: TypeAdapter[Message] = TypeAdapter(Annotated[Message, Field(discriminator="type")])


def read_message(line: bytes) -> Message:
    """Read one line of a worker's stdout.

    Raises:
        pydantic.ValidationError: If it is none of the messages.
    """
    return _MESSAGE.validate_json(line)


_PROGRESS_INTERVAL_S = 1.0


class Voice:
    """Speaks to the runner."""

    def __init__(self, pipe: BinaryIO) -> None:
        self._pipe = pipe
        self._told: tuple[Stage | None, str, float] = (None, "", 0.0)

    def say(self, message: Message) -> None:
        self._pipe.write(message.model_dump_json().encode() + b"\n")
        self._pipe.flush()

    def report(self, progress: Progress) -> None:
        """Report the progress: each new stage or message at once, else once a second at most."""
        now = time.monotonic()
        *told, told_at = self._told
        if [progress.stage, progress.message] == told and now - told_at < _PROGRESS_INTERVAL_S:
            return
        self._told = (progress.stage, progress.message, now)
        made = ProgressMade(
            stage=progress.stage,
            fraction=progress.fraction,
            message=progress.message,
            figures=dict(progress.figures),
        )
        self.say(made)
