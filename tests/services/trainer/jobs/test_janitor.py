"""Checkpoints and uploads are kept as long as their jobs need them, and no longer."""

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from services.trainer.jobs import janitor as janitor_module
from services.trainer.jobs.janitor import Janitor
from services.trainer.jobs.leases import JobEnding, JobLeases
from services.trainer.jobs.queue import JobQueue, JobState
from services.trainer.training.checkpoint import JobCheckpoints
from services.trainer.worker.specs import JobKind, upload_key
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import IMPORT, train_spec
from tests.support.clocks import set_wrong_clock

UPLOAD = "a" * 64


@pytest.fixture
def janitor(pool: Pool, object_store: ObjectStore) -> Janitor:
    return Janitor(pool, object_store)


def test_an_epochs_state_is_replaced_whole(object_store: ObjectStore, tmp_path: Path):
    state = JobCheckpoints(object_store, uuid4())
    file = tmp_path / "state"
    assert not state.load(file)
    for content in (b"epoch 1", b"epoch 2"):
        file.write_bytes(content)
        state.save(file)
    assert state.load(tmp_path / "loaded")
    assert (tmp_path / "loaded").read_bytes() == b"epoch 2"


async def test_a_trainings_state_goes_with_its_job(
    jobs: JobQueue, leases: JobLeases, object_store: ObjectStore, janitor: Janitor, tmp_path: Path
):
    await jobs.create(JobKind.TRAIN, train_spec(), "ada")
    claim = await leases.claim()
    state = JobCheckpoints(object_store, claim.job.job_id)
    (tmp_path / "state").write_bytes(b"epoch 1")
    state.save(tmp_path / "state")
    await janitor.clean_up()
    assert state.load(tmp_path / "loaded")
    await leases.finish(claim, JobEnding(JobState.FAILED, "diverged"))
    await janitor.clean_up()
    assert not state.load(tmp_path / "loaded")


async def test_an_upload_stays_until_its_jobs_have_ended(
    jobs: JobQueue,
    leases: JobLeases,
    object_store: ObjectStore,
    janitor: Janitor,
    monkeypatch: pytest.MonkeyPatch,
):
    object_store.put(upload_key(UPLOAD), b"a checkpoint")
    await janitor.clean_up()
    assert object_store.exists(upload_key(UPLOAD)), "its job may still be on the way"
    monkeypatch.setattr(janitor_module, "_MIN_UPLOAD_AGE", timedelta(0))
    await jobs.create(JobKind.IMPORT, {**IMPORT, "upload": UPLOAD}, "ada")
    await janitor.clean_up()
    assert object_store.exists(upload_key(UPLOAD))
    await leases.finish(await leases.claim(), JobEnding(JobState.FAILED, "a cat"))
    await janitor.clean_up()
    assert not object_store.exists(upload_key(UPLOAD))


async def test_a_new_upload_stays_when_the_clock_is_wrong(
    object_store: ObjectStore, janitor: Janitor, monkeypatch: pytest.MonkeyPatch
):
    object_store.put(upload_key(UPLOAD), b"a checkpoint")
    set_wrong_clock(monkeypatch, timedelta(days=400))
    await janitor.clean_up()
    assert object_store.exists(upload_key(UPLOAD))
