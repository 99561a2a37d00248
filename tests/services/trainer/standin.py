"""``python -m tests.services.trainer.standin BEHAVIOUR FILE``: a worker with a stand-in handler.

The process and the protocol are the real ones; only the work is not. FILE gets the process id.
"""

import os
import sys
import time
from pathlib import Path

from services.trainer.progress import Progress, Stage
from services.trainer.worker.process import run
from services.trainer.worker.protocol import (
    Assignment,
    EvaluationDone,
    MessageWriter,
    SnapshotTaken,
    VerdictDone,
    VersionDone,
)
from shared.errors import InvalidInput, Unavailable
from tests.services.trainer.samples import PASSED, make_folder, result_of
from tests.support.full_disk import largest_file

COMMAND = (sys.executable, "-m", "tests.services.trainer.standin")


def version(assignment: Assignment, writer: MessageWriter) -> VersionDone:
    writer.report(Progress(Stage.TRAINING, 0.5, "half way", {"loss": float("nan")}))
    folder = assignment.workdir / "version"
    make_folder(folder, f"v-{assignment.job_id.hex[:8]}", assignment.job_id)
    return VersionDone(folder=folder, gate=PASSED, remark="2 of 9 labelled images are left out")


def measure(assignment: Assignment, _writer: MessageWriter) -> EvaluationDone:
    page = assignment.workdir / "page.html"
    page.write_text("what was measured")
    return EvaluationDone(
        result=result_of(assignment.spec["model_version"]), page=page, remark="3 of 9 are left out"
    )


def judge(assignment: Assignment, _writer: MessageWriter) -> VerdictDone:
    version = assignment.spec["model_version"]
    return VerdictDone(model_version=version, gate=PASSED, remark="judged on 51 people")


def chatter(assignment: Assignment, writer: MessageWriter) -> VersionDone:
    print("output of a library", flush=True)  # noqa: T201
    os.system("echo output of a program that it starts")  # noqa: S605
    return version(assignment, writer)


def hang_with_a_child(assignment: Assignment, writer: MessageWriter) -> VersionDone:
    os.system("sleep 300 &")  # noqa: S605
    return hang(assignment, writer)


def hang(assignment: Assignment, writer: MessageWriter) -> VersionDone:
    writer.report(Progress(Stage.EMBEDDING, 0.1, f"hanging as {os.getpid()}"))
    time.sleep(300)
    return version(assignment, writer)


def hang_once(assignment: Assignment, writer: MessageWriter) -> VersionDone:
    if assignment.data_snapshot is None:
        writer.write(SnapshotTaken(snapshot_id="snapshot-1"))
        return hang(assignment, writer)
    writer.report(Progress(Stage.EMBEDDING, 0.2, f"resumed on {assignment.data_snapshot}"))
    return version(assignment, writer)


def hang_until_told(assignment: Assignment, writer: MessageWriter) -> VersionDone:
    writer.report(Progress(Stage.EMBEDDING, 0.1, f"hanging as {os.getpid()}"))
    while not (assignment.workdir.parent / "go").exists():
        time.sleep(0.05)
    writer.write(SnapshotTaken(snapshot_id="snapshot-1"))
    return version(assignment, writer)


def refuse(_assignment: Assignment, _writer: MessageWriter) -> VersionDone:
    raise InvalidInput("checkpoint", "holds a cat")


def miss_the_store(_assignment: Assignment, _writer: MessageWriter) -> VersionDone:
    raise Unavailable("the object store cannot be reached")


def crash(_assignment: Assignment, _writer: MessageWriter) -> VersionDone:
    raise RuntimeError("an unexpected error")


def be_killed(_assignment: Assignment, _writer: MessageWriter) -> VersionDone:
    os.kill(os.getpid(), 9)
    raise AssertionError("still alive")


def fill_the_memory(_assignment: Assignment, _writer: MessageWriter) -> VersionDone:
    raise AssertionError(len(bytearray(2**30)))


def fill_the_disk(assignment: Assignment, _writer: MessageWriter) -> VersionDone:
    with largest_file(1000):
        (assignment.workdir / "large").write_bytes(bytes(2000))
    raise AssertionError("there was room")


def babble(assignment: Assignment, writer: MessageWriter) -> VersionDone:
    writer._pipe.write(b"this is no message\n")
    return version(assignment, writer)


if __name__ == "__main__":
    behaviour, log = sys.argv[1:]
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()}\n")
    run(
        globals()[behaviour],
        prepare=lambda assignment, _: assignment,
        under_torchrun="TORCHELASTIC_RUN_ID" in os.environ,
    )
