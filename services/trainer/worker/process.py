"""``python -m services.trainer.worker``: does one job, as a child of the trainer.

Reads its assignment from stdin and writes messages to stdout; see `messages`. It knows no
Postgres: whatever becomes of what it says is the runner's affair.
"""

import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from services.trainer.progress import Progress, Stage
from services.trainer.settings import WorkerSettings
from services.trainer.worker.handlers import do
from services.trainer.worker.protocol import (
    Assignment,
    Done,
    Failed,
    Measured,
    Voice,
)
from services.trainer.worker.specs import JobKind
from shared.errors import MagFaceError, Unavailable

_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Do the job that stdin assigns, alone or as one of the processes that torchrun started."""
    run(do)


def run(work: Callable[[Assignment, Voice], Done | Measured]) -> None:
    """Be a worker whose work is `work`, from the assignment to the last message.

    A MagFaceError of `work` ends the job with its text; any other exception with its traceback.
    """
    _die_with_parent()
    voice = Voice(_take_stdout())
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _run_together(work, voice)
        return
    assignment = _listen()
    if os.getppid() != assignment.parent_pid:
        sys.exit("the runner has ended")
    with _failure_told(voice):
        voice.say(work(assignment, voice))


def _run_together(work: Callable[[Assignment, Voice], Done | Measured], voice: Voice) -> None:
    """Be one of torchrun's processes: the leading one listens and speaks, all of them train.

    A process that fails ends, and torchrun ends the others.
    """
    from services.trainer.training.distributed import agreed, leads, own_rank, together  # noqa: PLC0415

    with together():
        if leads():
            assignment = _listen()
            with _failure_told(voice):
                voice.say(work(agreed(_with_snapshot(assignment, voice)), voice))
            return
        given: Assignment | None = agreed(None)
        if given is not None and given.kind is JobKind.TRAIN:
            workdir = given.workdir / f"process-{own_rank()}"
            workdir.mkdir(parents=True)
            with Path(os.devnull).open("wb") as nowhere:
                work(given.model_copy(update={"workdir": workdir}), Voice(nowhere))


def _with_snapshot(assignment: Assignment, voice: Voice) -> Assignment:
    """Freeze the feedback before the processes part, so that all pull the same."""
    if assignment.kind is not JobKind.TRAIN or assignment.data_snapshot is not None:
        return assignment
    from services.trainer.data.feedback_source import PulledFeedback  # noqa: PLC0415
    from shared.rpc.channel import open_sync_channel  # noqa: PLC0415

    voice.report(Progress(Stage.PULLING_FEEDBACK, 0.0, "freezing the feedback"))
    with open_sync_channel(WorkerSettings().feedback_address) as channel:
        frozen = PulledFeedback(channel, None, assignment.workdir / "images")
        return assignment.model_copy(update={"data_snapshot": frozen.snapshot_id})


def _listen() -> Assignment:
    assignment = Assignment.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_end_at_eof, daemon=True).start()
    return assignment


@contextmanager
def _failure_told(voice: Voice) -> Iterator[None]:
    try:
        yield
    except MagFaceError as error:
        voice.say(Failed(why=str(error), transient=isinstance(error, Unavailable)))


def _take_stdout() -> BinaryIO:
    """Keep stdout for messages; whatever a library prints goes to stderr."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_at_eof() -> None:
    """End this process and its children when the runner closes our stdin by dying."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)
