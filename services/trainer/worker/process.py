"""Worker process: reads an assignment from stdin and writes messages to stdout.

See `services.trainer.worker.protocol` for the messages. The process does not access Postgres; the
runner records what the messages report.
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

from services.trainer.worker.memory import MemoryLimit, ran_out_of_memory
from services.trainer.worker.protocol import (
    Assignment,
    Failed,
    MessageWriter,
    Result,
)
from services.trainer.worker.specs import JobKind
from shared.errors import MagFaceError
from shared.files import full_disk
from shared.runtime import start_log

_PR_SET_PDEATHSIG = 1

# Does a job; returns None only on a process of torchrun other than rank 0.
Handler = Callable[[Assignment, MessageWriter], Result | None]
# Completes an assignment before it is given to all processes of torchrun.
Preparation = Callable[[Assignment, MessageWriter], Assignment]


class RunnerGone(Exception):
    """The runner ended before the job started."""


def run(handle: Handler, *, prepare: Preparation, under_torchrun: bool) -> None:
    """Read the assignment, do the job and send its last message.

    A MagFaceError of the handler is sent as the job's failure, and so are a full disk and a lack of
    memory under a limit. Any other exception ends the process with a traceback.

    Args:
        handle: Does the job.
        prepare: Called under torchrun, on rank 0 only.
        under_torchrun: Whether this is one of the processes that torchrun started.

    Raises:
        RunnerGone: If the runner has ended.
    """
    _die_with_parent()
    writer = MessageWriter(_take_stdout())
    start_log(logging.WARNING, "%(levelname)s %(name)s %(message)s")
    if under_torchrun:
        _run_distributed(handle, prepare, writer)
    else:
        assignment = _read_assignment()
        if os.getppid() != assignment.parent_pid:
            raise RunnerGone("the runner has ended")
        _send_result(
            writer,
            lambda: handle(assignment, writer),
            assignment.memory_limit,
            assignment.workdir,
        )


def _run_distributed(handle: Handler, prepare: Preparation, writer: MessageWriter) -> None:
    """Do a job on several processes: all of them train, and rank 0 reads and sends messages.

    If one process fails, torchrun ends the others.
    """
    from services.trainer.training.distributed import (  # noqa: PLC0415
        broadcast,
        is_rank0,
        process_group,
        rank,
    )

    with process_group():
        if is_rank0():
            assignment = _read_assignment()
            _send_result(
                writer,
                lambda: handle(broadcast(prepare(assignment, writer)), writer),
                assignment.memory_limit,
                assignment.workdir,
            )
            return
        received: Assignment | None = broadcast(None)
        if received is not None and received.kind is JobKind.TRAIN:
            if received.memory_limit is not None:
                received.memory_limit.apply()
            _handle_silently(handle, received, rank())


def _handle_silently(handle: Handler, assignment: Assignment, rank: int) -> None:
    """Take part in a job in a working folder of this process, without sending messages."""
    workdir = assignment.workdir / f"process-{rank}"
    workdir.mkdir(parents=True)
    with Path(os.devnull).open("wb") as null:
        handle(assignment.model_copy(update={"workdir": workdir}), MessageWriter(null))


def _send_result(
    writer: MessageWriter,
    do: Callable[[], Result | None],
    limit: MemoryLimit | None,
    workdir: Path,
) -> None:
    with _report_failure(writer, limit, workdir):
        if limit is not None:
            limit.apply()
        result = do()
        if result is not None:
            writer.write(result)


@contextmanager
def _report_failure(
    writer: MessageWriter, limit: MemoryLimit | None, workdir: Path
) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if limit is not None and ran_out_of_memory(error):
            writer.write(Failed(reason=f"{limit} ({error or 'MemoryError'})", transient=False))
        elif isinstance(error, MagFaceError):
            writer.write(Failed.of(error))
        elif full := full_disk(error, workdir):
            writer.write(Failed.of(full))
        else:
            raise


def _read_assignment() -> Assignment:
    assignment = Assignment.model_validate_json(sys.stdin.buffer.readline())
    threading.Thread(target=_exit_at_eof, daemon=True).start()
    return assignment


def _take_stdout() -> BinaryIO:
    """Return stdout for messages, and redirect what libraries print there to stderr."""
    pipe = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    return pipe


def _die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_at_eof() -> None:
    """Kill this process and its children when stdin is closed, as it is when the runner ends."""
    while os.read(sys.stdin.fileno(), 1):
        pass
    os.killpg(0, signal.SIGKILL)
