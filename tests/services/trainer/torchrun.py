"""``torchrun … -m tests.services.trainer.torchrun FOLDER BEHAVIOUR``: a training.

BEHAVIOUR is ``train`` or ``process RANK fails`` for a small network, or ``whole training``. Each
process writes its result to FOLDER, which holds the checkpoint too.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch import distributed

from services.trainer.data.reference_faces import default_reference
from services.trainer.training.checkpoint import NoCheckpoints
from services.trainer.training.distributed import process_group
from services.trainer.training.run import run_training
from services.trainer.training.spec import TrainingSpec
from shared.model.network.iresnet import IResNet
from tests.services.trainer.feedback import Rendered
from tests.services.trainer.training.test_finetuner import finetuner, tiny_network
from tests.support.processes import REPOSITORY

SCORES = [0.1, 0.9, 0.5]


class FileCheckpoints:
    """Keeps the latest checkpoint in a file; see `CheckpointStore`."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def save(self, file: Path) -> None:
        shutil.copy(file, self._file)

    def load(self, file: Path) -> bool:
        if self._file.exists():
            shutil.copy(self._file, file)
        return self._file.exists()


def torchrun(folder: Path, behaviour: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *(
                "--nproc-per-node",
                str(processes),
                "-m",
                "tests.services.trainer.torchrun",
                str(folder),
                behaviour,
            ),
        ],
        cwd=REPOSITORY,
        # Spinning threads slow each other down if two processes share a core.
        env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )


def run_whole(folder: Path, rank: int) -> None:
    """Run a complete training; the parent is also the only earlier version."""
    workdir = folder / f"process-{rank}"
    workdir.mkdir()
    outcome = run_training(
        TrainingSpec(job_id="0" * 32, parent_version="parent", epochs=1),
        feedback=Rendered(range(30), 3),
        parent=folder / "parent",
        reference=default_reference(),
        workdir=workdir,
        checkpoints=NoCheckpoints(),
        report=lambda _: None,
        ancestors=[folder / "parent"],
    )
    assert (outcome is None) == (rank != 0)
    if outcome is not None:
        (folder / "gate").write_text(" ".join(check.name for check in outcome.gate.checks))


def main(folder: Path, behaviour: str) -> None:
    torch.set_num_threads(1)
    with process_group():
        rank = distributed.get_rank()
        if behaviour == "whole training":
            run_whole(folder, rank)
            return
        with (folder / "pids").open("a") as pids:
            pids.write(f"{os.getpid()}\n")
        trained: list[int] = []

        def tick(_done: float, epoch: int, _loss: float) -> None:
            trained.append(epoch)
            if behaviour == f"process {rank} fails" and epoch == 3:
                raise RuntimeError("an unexpected error")

        def validate(_: IResNet) -> float:
            # Scores of the second process would choose another epoch; they must be ignored.
            return SCORES[trained[-1] - 1] * (1 if rank == 0 else -1)

        network = tiny_network()
        checkpoints, scratch = FileCheckpoints(folder / "state"), folder / f"epoch-{rank}.pt"
        epochs = finetuner(network).run(validate, checkpoints, scratch, tick)
        made = {
            "weights": network.state_dict(),
            "losses": [epoch.loss for epoch in epochs],
            "trained": sorted(set(trained)),
        }
        torch.save(made, folder / f"made-{rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
