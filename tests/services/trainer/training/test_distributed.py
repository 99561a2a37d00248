"""Distributed training on two real processes, started by torchrun."""

import os
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import torch

from services.trainer.jobs.child_process import start_worker
from services.trainer.jobs.runner import worker_command
from services.trainer.worker.protocol import Assignment, ProgressMade, VersionDone, read_message
from services.trainer.worker.specs import JobKind
from tests.default_version import export_default
from tests.services.trainer.standin import COMMAND
from tests.services.trainer.torchrun import SCORES, torchrun
from tests.services.trainer.training.test_finetuner import finetuner, in_turn, tiny_network, train
from tests.support.processes import lives
from tests.support.waiting import until


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same training on one process."""
    network = tiny_network()
    epochs = train(finetuner(network), tmp_path_factory.mktemp("alone"), validate=in_turn(SCORES))
    return {"weights": network.state_dict(), "losses": [epoch.loss for epoch in epochs]}


def made(folder: Path, rank: int) -> dict[str, Any]:
    return torch.load(folder / f"made-{rank}.pt")


def same(one: dict[str, Any], other: dict[str, Any], tolerance: float) -> None:
    assert one["losses"] == pytest.approx(other["losses"], rel=tolerance)
    for name, weights in one["weights"].items():
        torch.testing.assert_close(
            weights, other["weights"][name], rtol=tolerance, atol=tolerance, msg=name
        )


def test_two_processes_train_as_one_does(alone: dict[str, Any], tmp_path: Path) -> None:
    run = torchrun(tmp_path, "train")
    assert run.returncode == 0, run.stdout
    # An epoch changes weights by about 1e-3; with a gradient of the wrong sign by twice that.
    same(made(tmp_path, 0), alone, tolerance=1e-5)
    same(made(tmp_path, 1), made(tmp_path, 0), tolerance=0)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_one_that_fails_ends_both_and_they_go_on_from_the_last_epoch(
    alone: dict[str, Any], tmp_path: Path, rank: int
) -> None:
    failed = torchrun(tmp_path, f"process {rank} fails")
    assert failed.returncode != 0
    assert "an unexpected error" in failed.stdout
    assert [pid for pid in pids(tmp_path) if lives(pid)] == []
    assert not list(tmp_path.glob("made-*"))

    resumed = torchrun(tmp_path, "train")
    assert resumed.returncode == 0, resumed.stdout
    assert [made(tmp_path, rank)["trained"] for rank in (0, 1)] == [[3], [3]]
    same(made(tmp_path, 0), alone, tolerance=1e-5)


@pytest.mark.slow
def test_two_processes_check_earlier_versions_before_one_of_them_ends(tmp_path: Path) -> None:
    export_default(tmp_path / "parent")
    run = torchrun(tmp_path, "whole training")
    assert run.returncode == 0, run.stdout
    assert "compatibility_loss" in (tmp_path / "gate").read_text()


def pids(folder: Path) -> list[int]:
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def assigned(folder: Path) -> Assignment:
    return Assignment(
        parent_pid=os.getpid(),
        job_id=uuid4(),
        kind=JobKind.TRAIN,
        spec={},
        data_snapshot="snapshot-1",
        workdir=folder,
    )


def standing_in(behaviour: str, folder: Path) -> list[str]:
    command = [part.replace("services.trainer.worker", COMMAND[-1]) for part in worker_command(2)]
    return [*command, behaviour, str(folder / "pids")]


async def test_of_two_workers_one_speaks_and_both_work(tmp_path: Path) -> None:
    async with start_worker(standing_in("version", tmp_path), assigned(tmp_path)) as child:
        messages = [read_message(line) async for line in child.lines()]
    assert [type(message) for message in messages] == [ProgressMade, VersionDone]
    assert (tmp_path / "version").is_dir()
    assert (tmp_path / "process-1" / "version").is_dir()


@pytest.mark.slow
async def test_two_workers_end_when_the_runner_is_done_with_them(tmp_path: Path) -> None:
    async with start_worker(standing_in("hang", tmp_path), assigned(tmp_path)) as child:
        read_message(await anext(child.lines()))
        workers = pids(tmp_path)
        assert len(workers) == 2
    await until(lambda: not any(lives(pid) for pid in workers), 5)
