"""Folders of jobs are announced as long as they exist, also when the trainer is killed."""

import asyncio
from pathlib import Path

import pytest

from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.folders import JOB_FOLDERS, JobFolders
from services.trainer.jobs.leases import JobLeases
from services.trainer.jobs.queue import JobQueue
from services.trainer.jobs.runner import JobRunner
from services.trainer.worker.specs import JobKind
from shared.errors import Unavailable
from shared.files import clean_scratch
from shared.registry.image_copies import list_holders, may_hold
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import IMPORT, add_sample
from tests.services.trainer.standin import COMMAND
from tests.support.lost_store import lost_store
from tests.support.waiting import until


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


async def test_a_folder_is_announced_with_its_snapshot_until_it_is_removed(
    jobs: JobQueue, leases: JobLeases, object_store: ObjectStore, tmp_path: Path
) -> None:
    folders = JobFolders(object_store, tmp_path)
    job = await jobs.create(JobKind.EVALUATE, {"model_version": "v"}, "ada")
    claim = await leases.claim()
    assert claim is not None
    async with folders.open(claim) as folder:
        (holder,) = list_holders(object_store)
        assert str(job.job_id) in holder
        assert may_hold(object_store, holder, frozenset())
        await folders.set_snapshot(claim, "snapshot-1")
        await folders.withdraw_removed()
        assert may_hold(object_store, holder, frozenset({"snapshot-1"}))
        assert not may_hold(object_store, holder, frozenset({"snapshot-2"}))
        (folder / "image").touch()
    assert list_holders(object_store) == []
    assert _names(tmp_path) == []


async def test_the_folder_of_an_import_is_not_announced(
    jobs: JobQueue, leases: JobLeases, object_store: ObjectStore, tmp_path: Path
) -> None:
    await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    claim = await leases.claim()
    assert claim is not None
    async with JobFolders(object_store, tmp_path).open(claim):
        assert list_holders(object_store) == []


@pytest.mark.parametrize("lost", ["the trainer", "the store"])
async def test_what_a_killed_trainer_announced_is_withdrawn_after_its_folder_is_removed(
    jobs: JobQueue, leases: JobLeases, object_store: ObjectStore, tmp_path: Path, lost: str
) -> None:
    await jobs.create(JobKind.TRAIN, {}, "ada")
    claim = await leases.claim()
    assert claim is not None
    killed = JobFolders(object_store, tmp_path)
    opened = killed.open(claim)
    await opened.__aenter__()
    if lost == "the store":
        # The folder is removed, and that cannot be said.
        killed._objects = lost_store(timeout_s=0.2)
        await opened.__aexit__(None, None, None)
    later = JobFolders(object_store, tmp_path)
    if lost == "the trainer":
        await later.withdraw_removed()
        assert len(list_holders(object_store)) == 1
        with clean_scratch(tmp_path, f"{JOB_FOLDERS}*"):
            pass
    assert len(list_holders(object_store)) == 1
    await later.withdraw_removed()
    assert list_holders(object_store) == []
    assert _names(tmp_path) == []


async def test_no_image_is_fetched_into_a_folder_that_cannot_be_announced(
    jobs: JobQueue, leases: JobLeases, tmp_path: Path
) -> None:
    await jobs.create(JobKind.TRAIN, {}, "ada")
    claim = await leases.claim()
    assert claim is not None
    with pytest.raises(Unavailable):
        async with JobFolders(lost_store(timeout_s=0.2), tmp_path).open(claim):
            raise AssertionError("opened")


async def test_a_running_job_announces_the_snapshot_that_it_takes(
    jobs: JobQueue,
    completion: JobCompletion,
    pool: Pool,
    object_store: ObjectStore,
    tmp_path: Path,
) -> None:
    await add_sample(pool, "v1")
    await jobs.create(JobKind.EVALUATE, {"model_version": "v1"}, "ada")
    folders = JobFolders(object_store, tmp_path / "work")
    command = (*COMMAND, "hang_once", str(tmp_path / "started"))
    running = asyncio.create_task(JobRunner(JobLeases(pool), completion, folders, command).run())
    try:

        def announced() -> bool:
            return [
                may_hold(object_store, holder, frozenset({"snapshot-1"}))
                and not may_hold(object_store, holder, frozenset())
                for holder in list_holders(object_store)
            ] == [True]

        await until(lambda: asyncio.to_thread(announced), 20)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert list_holders(object_store) == []
