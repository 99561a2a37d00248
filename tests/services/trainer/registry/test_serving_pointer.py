"""Completion of jobs: publication, automatic promotion and the serving pointer."""

import asyncio

import pytest

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.leases import JobClaim, JobLeases
from services.trainer.jobs.queue import JobQueue, JobState
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.versions import VersionRegistry
from services.trainer.worker.specs import JobKind
from shared.errors import AlreadyExists, Conflict, Unavailable
from shared.registry.serving_pointer import POINTER_KEY, read_pointer
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import (
    IMPORT,
    PASSED,
    REFUSED,
    add_sample,
    make_folder,
    train_spec,
)
from tests.support.waiting import until


@pytest.fixture
def finish(jobs: JobQueue, leases: JobLeases, completion: JobCompletion, tmp_path):
    """Run a job to its end, as a runner would; returns the job."""

    async def finish(kind: JobKind, spec: dict, name: str, gate: GateVerdict = PASSED):
        await jobs.create(kind, spec, "ada")
        claim = await leases.claim()
        parent = spec.get("parent_version")
        folder = make_folder(tmp_path / name, name, claim.job.job_id, parent)
        await completion.record_version(
            claim, await completion.publish_version(claim.job, folder), gate
        )
        return await jobs.get(claim.job.job_id)

    return finish


def served(objects: ObjectStore) -> tuple[int, str] | None:
    pointer = read_pointer(objects)
    return (pointer.generation, pointer.model_version) if pointer else None


async def test_an_import_becomes_a_version_that_does_not_serve(
    finish, versions: VersionRegistry, object_store: ObjectStore, tmp_path
):
    job = await finish(JobKind.IMPORT, IMPORT, "v1")
    assert (job.state, job.model_version, job.gate) == (JobState.SUCCEEDED, "v1", PASSED)
    assert await versions.serving() is None
    assert served(object_store) is None
    version = await versions.get("v1")
    assert VersionStore(object_store, tmp_path / "other").manifest("v1") == version.manifest


async def test_the_bundled_default_serves_only_if_it_comes_first(
    finish, versions: VersionRegistry, object_store: ObjectStore
):
    bundled = {**IMPORT, "promote_if_first": True}
    first = await finish(JobKind.IMPORT, bundled, "v1")
    await finish(JobKind.IMPORT, bundled, "v2")
    assert "serves now" in first.message
    serving = await versions.serving()
    assert (serving.generation, serving.model_version) == (1, "v1")
    assert served(object_store) == (1, "v1")


async def test_a_first_import_that_the_gate_refuses_does_not_serve(
    finish, versions: VersionRegistry, object_store: ObjectStore
):
    job = await finish(JobKind.IMPORT, {**IMPORT, "promote_if_first": True}, "v1", REFUSED)
    assert (job.state, job.gate.passed) == (JobState.SUCCEEDED, False)
    assert "which the gate refused: not a number" in job.message
    assert await versions.serving() is None
    assert served(object_store) is None


async def test_a_training_that_passes_its_gate_is_promoted(
    finish, pool: Pool, versions: VersionRegistry, object_store: ObjectStore
):
    await add_sample(pool, "v1")
    await versions.promote("v1", requested_by="ada", reason="")
    job = await finish(JobKind.TRAIN, train_spec("v1"), "v2", PASSED)
    assert (job.gate, job.model_version) == (PASSED, "v2")
    serving = await versions.serving()
    assert (serving.model_version, serving.requested_by, serving.reason) == (
        "v2",
        "ada",
        "gate passed",
    )
    assert served(object_store) == (2, "v2")


@pytest.mark.parametrize(
    ("gate", "changes", "says"),
    [
        (REFUSED, {}, "refused"),
        (GateVerdict(()), {}, "nothing was checked"),
        (PASSED, {"no_promotion": True}, "does not serve until it is promoted"),
    ],
)
async def test_a_training_that_may_not_serve_is_a_version_all_the_same(
    finish, pool: Pool, versions: VersionRegistry, *, gate, changes, says
):
    await add_sample(pool, "v1")
    await versions.promote("v1", requested_by="ada", reason="")
    job = await finish(JobKind.TRAIN, train_spec("v1", **changes), "v2", gate)
    assert job.state is JobState.SUCCEEDED
    assert says in job.message
    assert (await versions.serving()).model_version == "v1"
    assert (await versions.get("v2")).gate.passed == gate.passed


async def test_a_candidate_does_not_oust_what_it_was_not_compared_with(
    finish, pool: Pool, versions: VersionRegistry
):
    for name in ("v1", "v2"):
        await add_sample(pool, name)
    await versions.promote("v2", requested_by="ada", reason="promoted while v3 was trained from v1")
    job = await finish(JobKind.TRAIN, train_spec("v1"), "v3", PASSED)
    assert "but v2 serves now" in job.message
    assert (await versions.serving()).model_version == "v2"


async def test_a_zombie_records_nothing(
    jobs: JobQueue, pool: Pool, completion: JobCompletion, versions: VersionRegistry, tmp_path
):
    await jobs.create(JobKind.IMPORT, {**IMPORT, "promote_if_first": True}, "ada")
    zombie = await JobLeases(pool, lease_s=0).claim()
    await JobLeases(pool).claim()
    folder = make_folder(tmp_path / "v1", "v1", zombie.job.job_id)
    manifest = await completion.publish_version(zombie.job, folder)
    with pytest.raises(Conflict):
        await completion.record_version(zombie, manifest, PASSED)
    assert await versions.list(10) == []
    assert await versions.serving() is None


async def test_a_job_that_runs_again_finds_what_it_published(
    jobs: JobQueue, leases: JobLeases, completion: JobCompletion, tmp_path
):
    await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    claim = await leases.claim()
    folder = make_folder(tmp_path / "v1", "v1", claim.job.job_id)
    first = await completion.publish_version(claim.job, folder)
    await leases.release(claim)
    claim = await leases.claim()
    again = make_folder(tmp_path / "again", "v1", claim.job.job_id, "rounded-otherwise")
    assert await completion.publish_version(claim.job, again) == first
    await completion.record_version(claim, first, PASSED)
    assert (await jobs.get(claim.job.job_id)).state is JobState.SUCCEEDED


async def test_a_job_never_takes_anothers_name(
    finish, jobs: JobQueue, leases: JobLeases, completion: JobCompletion, tmp_path
):
    await finish(JobKind.IMPORT, IMPORT, "v1")
    other = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    claim: JobClaim = await leases.claim()
    folder = make_folder(tmp_path / "other", "v1", other.job_id, "another-parent")
    with pytest.raises(AlreadyExists):
        await completion.publish_version(claim.job, folder)


async def test_the_pointer_follows_after_a_crash_between_commit_and_publication(
    pool: Pool,
    versions: VersionRegistry,
    pointer: ServingPointerPublisher,
    object_store: ObjectStore,
):
    await add_sample(pool, "v1")
    await versions.promote("v1", requested_by="ada", reason="committed, and then the trainer died")
    assert served(object_store) is None
    reconciling = asyncio.create_task(pointer.run())
    try:
        await until(lambda: served(object_store) == (1, "v1"), 4)
        object_store.remove(POINTER_KEY)
        await until(lambda: served(object_store) == (1, "v1"), 4)
        object_store.put(POINTER_KEY, b"not a pointer")
        await until(lambda: object_store.get(POINTER_KEY).startswith(b"{"), 4)
    finally:
        reconciling.cancel()


async def test_a_decision_holds_while_the_store_is_away(
    pool: Pool, versions: VersionRegistry, object_store_settings: ObjectStoreSettings
):
    away = object_store_settings.model_copy(update={"s3_endpoint": "127.0.0.1:9"})
    pointer = ServingPointerPublisher(pool, ObjectStore(away))
    await add_sample(pool, "v1")
    serving = await versions.promote("v1", requested_by="ada", reason="")
    assert not await pointer.try_to_publish()
    with pytest.raises(Unavailable):
        await pointer.publish()
    assert await versions.serving() == serving


async def test_the_pointer_is_written_only_when_it_differs(
    pool: Pool,
    versions: VersionRegistry,
    pointer: ServingPointerPublisher,
    object_store: ObjectStore,
):
    await add_sample(pool, "v1")
    await versions.promote("v1", requested_by="ada", reason="")
    await pointer.publish()
    first = read_pointer(object_store)
    await pointer.publish()
    assert read_pointer(object_store) == first


async def test_many_publishers_at_once_leave_the_latest_decision(
    pool: Pool,
    versions: VersionRegistry,
    pointer: ServingPointerPublisher,
    object_store: ObjectStore,
):
    for name in ("v1", "v2"):
        await add_sample(pool, name)

    async def promote_and_publish(name: str) -> None:
        await versions.promote(name, requested_by="ada", reason="")
        await pointer.publish()

    for round_ in range(6):
        await asyncio.gather(
            promote_and_publish(("v1", "v2")[round_ % 2]), pointer.publish(), pointer.publish()
        )
    serving = await versions.serving()
    assert serving.generation == 6
    assert served(object_store) == (6, serving.model_version)
