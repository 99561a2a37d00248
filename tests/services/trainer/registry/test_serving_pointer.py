"""From a folder that a job made to the pointer that the embedders watch."""

import asyncio

import pytest

from services.trainer.evaluation.gate import GateVerdict
from services.trainer.jobs.completion import Completion
from services.trainer.jobs.leases import Claim, Leases
from services.trainer.jobs.queue import Jobs, JobState
from services.trainer.registry.serving_pointer import PointerPublisher
from services.trainer.registry.versions import Versions
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
def finish(jobs: Jobs, leases: Leases, completion: Completion, tmp_path):
    """Run a job of a kind to its end, as a runner would; gives it as it stands then."""

    async def finish(kind: JobKind, spec: dict, name: str, gate: GateVerdict | None = None):
        await jobs.create(kind, spec, "ada")
        claim = await leases.claim()
        parent = spec.get("parent_version")
        folder = make_folder(tmp_path / name, name, claim.job.job_id, parent)
        await completion.record(claim, await completion.publish(claim.job, folder), gate)
        return await jobs.get(claim.job.job_id)

    return finish


def served(objects: ObjectStore) -> tuple[int, str] | None:
    pointer = read_pointer(objects)
    return (pointer.generation, pointer.model_version) if pointer else None


async def test_an_import_becomes_a_version_that_does_not_serve(
    finish, versions: Versions, object_store: ObjectStore, tmp_path
):
    job = await finish(JobKind.IMPORT, IMPORT, "v1")
    assert (job.state, job.model_version, job.gate) == (JobState.SUCCEEDED, "v1", None)
    assert await versions.serving() is None
    assert served(object_store) is None
    version = await versions.get("v1")
    assert VersionStore(object_store, tmp_path / "other").manifest("v1") == version.manifest


async def test_the_bundled_default_serves_only_if_it_comes_first(
    finish, versions: Versions, object_store: ObjectStore
):
    bundled = {**IMPORT, "promote_if_first": True}
    first = await finish(JobKind.IMPORT, bundled, "v1")
    await finish(JobKind.IMPORT, bundled, "v2")
    assert "serves now" in first.message
    assert [s.model_version for s in await versions.history()] == ["v1"]
    assert served(object_store) == (1, "v1")


async def test_a_training_that_passes_its_gate_is_promoted(
    finish, pool: Pool, versions: Versions, object_store: ObjectStore
):
    await add_sample(pool, "v1")
    await versions.promote("v1", who="ada", why="")
    job = await finish(JobKind.TRAIN, train_spec("v1"), "v2", PASSED)
    assert (job.gate, job.model_version) == (PASSED, "v2")
    serving = await versions.serving()
    assert (serving.model_version, serving.who, serving.why) == ("v2", "ada", "gate passed")
    assert served(object_store) == (2, "v2")


@pytest.mark.parametrize(
    ("gate", "changes", "says"),
    [
        (REFUSED, {}, "refused"),
        (GateVerdict(()), {}, "nothing was checked"),
        (PASSED, {"no_promotion": True}, "kept out of service"),
    ],
)
async def test_a_training_that_may_not_serve_is_a_version_all_the_same(
    finish, pool: Pool, versions: Versions, *, gate, changes, says
):
    await add_sample(pool, "v1")
    await versions.promote("v1", who="ada", why="")
    job = await finish(JobKind.TRAIN, train_spec("v1", **changes), "v2", gate)
    assert job.state is JobState.SUCCEEDED
    assert says in job.message
    assert (await versions.serving()).model_version == "v1"
    assert (await versions.get("v2")).gate.passed == gate.passed


async def test_a_candidate_does_not_oust_what_it_was_not_compared_with(
    finish, pool: Pool, versions: Versions
):
    for name in ("v1", "v2"):
        await add_sample(pool, name)
    await versions.promote("v2", who="ada", why="promoted while v3 was trained from v1")
    job = await finish(JobKind.TRAIN, train_spec("v1"), "v3", PASSED)
    assert "v2 serves by now" in job.message
    assert (await versions.serving()).model_version == "v2"


async def test_a_zombie_records_nothing(
    jobs: Jobs, pool: Pool, completion: Completion, versions: Versions, tmp_path
):
    await jobs.create(JobKind.IMPORT, {**IMPORT, "promote_if_first": True}, "ada")
    zombie = await Leases(pool, lease_s=0).claim()
    await Leases(pool).claim()
    folder = make_folder(tmp_path / "v1", "v1", zombie.job.job_id)
    manifest = await completion.publish(zombie.job, folder)
    with pytest.raises(Conflict):
        await completion.record(zombie, manifest, None)
    assert await versions.list(10) == []
    assert await versions.serving() is None


async def test_a_job_that_runs_again_finds_what_it_published(
    jobs: Jobs, leases: Leases, completion: Completion, tmp_path
):
    await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    claim = await leases.claim()
    folder = make_folder(tmp_path / "v1", "v1", claim.job.job_id)
    first = await completion.publish(claim.job, folder)
    await leases.release(claim)
    claim = await leases.claim()
    again = make_folder(tmp_path / "again", "v1", claim.job.job_id, "rounded-otherwise")
    assert await completion.publish(claim.job, again) == first
    await completion.record(claim, first, None)
    assert (await jobs.get(claim.job.job_id)).state is JobState.SUCCEEDED


async def test_a_store_that_is_away_for_a_moment_costs_no_work(
    pool: Pool, jobs: Jobs, pointer: PointerPublisher, object_store: ObjectStore, tmp_path
):
    class Away(VersionStore):
        """The real store, behind a first call that finds it unreachable."""

        calls = 0

        def publish(self, folder) -> None:
            self.calls += 1
            if self.calls == 1:
                raise Unavailable("connection refused")
            super().publish(folder)

    store = Away(object_store, tmp_path / "versions")
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    folder = make_folder(tmp_path / "v1", "v1", job.job_id)
    await Completion(pool, object_store, store, pointer).publish(job, folder)
    assert store.calls == 2
    assert VersionStore(object_store, tmp_path / "other").manifest("v1").job_id == str(job.job_id)


async def test_a_job_never_takes_anothers_name(
    finish, jobs: Jobs, leases: Leases, completion: Completion, tmp_path
):
    await finish(JobKind.IMPORT, IMPORT, "v1")
    other = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    claim: Claim = await leases.claim()
    folder = make_folder(tmp_path / "other", "v1", other.job_id, "another-parent")
    with pytest.raises(AlreadyExists):
        await completion.publish(claim.job, folder)


async def test_the_pointer_follows_after_a_crash_between_commit_and_publication(
    pool: Pool, versions: Versions, pointer: PointerPublisher, object_store: ObjectStore
):
    await add_sample(pool, "v1")
    await versions.promote("v1", who="ada", why="committed, and then the trainer died")
    assert served(object_store) is None
    reconciling = asyncio.create_task(pointer.reconcile())
    try:
        await until(lambda: served(object_store) == (1, "v1"), 4)
        object_store.remove(POINTER_KEY)
        await until(lambda: served(object_store) == (1, "v1"), 4)
        object_store.put(POINTER_KEY, b"not a pointer")
        await until(lambda: object_store.get(POINTER_KEY).startswith(b"{"), 4)
    finally:
        reconciling.cancel()


async def test_a_decision_holds_while_the_store_is_away(
    pool: Pool, versions: Versions, object_store_settings: ObjectStoreSettings
):
    away = object_store_settings.model_copy(update={"s3_endpoint": "127.0.0.1:9"})
    pointer = PointerPublisher(pool, ObjectStore(away))
    await add_sample(pool, "v1")
    serving = await versions.promote("v1", who="ada", why="")
    assert not await pointer.try_to_publish()
    with pytest.raises(Unavailable):
        await pointer.publish()
    assert await versions.serving() == serving


async def test_the_pointer_is_written_only_when_it_differs(
    pool: Pool, versions: Versions, pointer: PointerPublisher, object_store: ObjectStore
):
    await add_sample(pool, "v1")
    await versions.promote("v1", who="ada", why="")
    await pointer.publish()
    first = read_pointer(object_store)
    await pointer.publish()
    assert read_pointer(object_store) == first


async def test_many_publishers_at_once_leave_the_latest_decision(
    pool: Pool, versions: Versions, pointer: PointerPublisher, object_store: ObjectStore
):
    for name in ("v1", "v2"):
        await add_sample(pool, name)

    async def promote_and_publish(name: str) -> None:
        await versions.promote(name, who="ada", why="")
        await pointer.publish()

    for round_ in range(6):
        await asyncio.gather(
            promote_and_publish(("v1", "v2")[round_ % 2]), pointer.publish(), pointer.publish()
        )
    serving = await versions.serving()
    assert serving.generation == 6
    assert served(object_store) == (6, serving.model_version)
