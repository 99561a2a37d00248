"""``python -m tests.services.trainer.standin BEHAVIOUR FILE``: a worker that does not compute.

It is run by the real worker's harness; only what it does stands in for the real work.
"""

import os
import sys
import time
from pathlib import Path

from services.trainer.progress import Progress, Stage
from services.trainer.worker.process import run
from services.trainer.worker.protocol import Assignment, Done, Measured, SnapshotTaken, Voice
from shared.errors import InvalidInput, Unavailable
from tests.services.trainer.samples import make_folder, result_of

COMMAND = (sys.executable, "-m", "tests.services.trainer.standin")


def version(assignment: Assignment, voice: Voice) -> Done:
    voice.report(Progress(Stage.TRAINING, 0.5, "half way", {"loss": float("nan")}))
    folder = assignment.workdir / "version"
    make_folder(folder, f"v-{assignment.job_id.hex[:8]}", assignment.job_id)
    return Done(folder=folder, gate=None)


def measure(assignment: Assignment, _voice: Voice) -> Measured:
    page = assignment.workdir / "page.html"
    page.write_text("what was measured")
    return Measured(result=result_of(assignment.spec["model_version"]), page=page)


def chatter(assignment: Assignment, voice: Voice) -> Done:
    print("a library greets", flush=True)  # noqa: T201
    os.system("echo and so does a program it starts")  # noqa: S605
    return version(assignment, voice)


def hang_with_a_child(assignment: Assignment, voice: Voice) -> Done:
    os.system("sleep 300 &")  # noqa: S605
    return hang(assignment, voice)


def hang(assignment: Assignment, voice: Voice) -> Done:
    voice.report(Progress(Stage.EMBEDDING, 0.1, f"hanging as {os.getpid()}"))
    time.sleep(300)
    return version(assignment, voice)


def hang_once(assignment: Assignment, voice: Voice) -> Done:
    if assignment.data_snapshot is None:
        voice.say(SnapshotTaken(snapshot_id="snapshot-1"))
        return hang(assignment, voice)
    voice.report(Progress(Stage.EMBEDDING, 0.2, f"resumed on {assignment.data_snapshot}"))
    return version(assignment, voice)


def refuse(_assignment: Assignment, _voice: Voice) -> Done:
    raise InvalidInput("checkpoint", "holds a cat")


def miss_the_store(_assignment: Assignment, _voice: Voice) -> Done:
    raise Unavailable("the object store cannot be reached")


def crash(_assignment: Assignment, _voice: Voice) -> Done:
    raise RuntimeError("something nobody thought of")


def be_killed(_assignment: Assignment, _voice: Voice) -> Done:
    os.kill(os.getpid(), 9)
    raise AssertionError("still alive")


def babble(assignment: Assignment, voice: Voice) -> Done:
    voice._pipe.write(b"this is no message\n")
    return version(assignment, voice)


if __name__ == "__main__":
    behaviour, log = sys.argv[1:]
    with Path(log).open("a") as file:
        file.write(f"{os.getpid()}\n")
    run(globals()[behaviour])
