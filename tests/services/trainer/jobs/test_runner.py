"""The runner, with workers that are real processes."""

import asyncio
import os
import re
import sys
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest

from services.trainer.evaluation.gate import verdict_from_json
from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.folders import JobFolders
from services.trainer.jobs.leases import JobLeases
from services.trainer.jobs.queue import Job, JobQueue, JobState
from services.trainer.jobs.runner import JobRunner
from services.trainer.progress import Stage
from services.trainer.registry.evaluations import EvaluationStore
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.versions import VersionRegistry
from services.trainer.worker.memory import MemoryLimit
from services.trainer.worker.specs import JobKind, JudgeSpec
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction
from tests.services.trainer.samples import IMPORT, PASSED, UNDECIDED, add_sample, result_of
from tests.services.trainer.standin import COMMAND
from tests.support.lost_store import lost_store
from tests.support.lying_store import lying_store, page
from tests.support.postgres import read_only
from tests.support.waiting import until


@pytest.fixture
def running(pool: Pool, completion: JobCompletion, object_store: ObjectStore, tmp_path: Path):
    """Run job runners whose workers behave in a given way."""

    @asynccontextmanager
    async def running(
        behaviour: str,
        runners: int = 1,
        limit: MemoryLimit | None = None,
        leases: JobLeases | None = None,
        completion: JobCompletion = completion,
    ):
        command = (*COMMAND, behaviour, str(tmp_path / "started"))
        folders = JobFolders(object_store, tmp_path / "work")
        tasks = [
            asyncio.create_task(
                JobRunner(
                    leases or JobLeases(pool),
                    completion,
                    folders,
                    command,
                    lambda _: limit,
                ).run()
            )
            for _ in range(runners)
        ]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    return running


def started(tmp_path: Path) -> list[int]:
    log = tmp_path / "started"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


async def job_until(
    jobs: JobQueue, job: Job, holds: Callable[[Job], bool], timeout_s: float = 20
) -> Job:
    now = job

    async def look() -> bool:
        nonlocal now
        now = await jobs.get(job.job_id)
        return holds(now)

    await until(look, timeout_s)
    return now


async def ended(jobs: JobQueue, job: Job, timeout_s: float = 60) -> Job:
    return await job_until(jobs, job, lambda job: job.state.ended, timeout_s)


async def hanging(jobs: JobQueue, job: Job) -> int:
    """Wait until the job's worker hangs; returns its process id."""
    job = await job_until(jobs, job, lambda job: "hanging" in job.message)
    return int(re.findall(r"\d+", job.message)[0])


def alive(group: int) -> list[int]:
    """List the processes of a worker's group that still run."""
    return [
        process.pid
        for process in psutil.process_iter()
        if _group(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE
    ]


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return None


async def test_a_job_becomes_a_version(
    jobs: JobQueue, versions: VersionRegistry, running, tmp_path: Path
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("version"):
        done = await ended(jobs, job)
    assert (done.state, done.progress) == (JobState.SUCCEEDED, 1)
    assert done.model_version == f"v-{job.job_id.hex[:8]}"
    assert done.message.endswith("; 2 of 9 labelled images are left out")
    assert (await versions.get(done.model_version)).job_id == job.job_id
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_job_becomes_an_evaluation(
    jobs: JobQueue, pool: Pool, object_store: ObjectStore, running, tmp_path: Path
):
    await add_sample(pool, "v1")
    job = await jobs.create(JobKind.EVALUATE, {"model_version": "v1"}, "ada")
    async with running("measure"):
        done = await ended(jobs, job)
    assert (done.state, done.model_version) == (JobState.SUCCEEDED, "v1")
    assert done.message.endswith("; 3 of 9 are left out")
    assert [start.stage for start in done.stages] == [
        *(Stage.QUEUED, Stage.STARTING, Stage.PUBLISHING)
    ]
    evaluations = EvaluationStore(pool, object_store)
    (found,) = await evaluations.list(10)
    assert (found.job_id, found.result) == (job.job_id, result_of("v1"))
    assert await evaluations.report(job.job_id) == b"what was measured"
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize("no_promotion", [False, True])
async def test_a_candidate_that_is_judged_again_gets_the_new_verdict_and_serves_if_due(
    pool: Pool, jobs: JobQueue, running, versions: VersionRegistry, no_promotion: bool
):
    await add_sample(pool, "parent")
    await versions.promote("parent", requested_by="ada", reason="first")
    training = await add_sample(pool, "v2", UNDECIDED, "parent")
    spec = JudgeSpec(
        model_version="v2", training_job=training.job_id, seed=0, no_promotion=no_promotion
    )
    job = await jobs.create(JobKind.JUDGE, spec.model_dump(mode="json"), "bob")
    async with running("judge"):
        job = await ended(jobs, job)
    assert (job.state, job.model_version, job.gate) == (JobState.SUCCEEDED, "v2", PASSED)
    assert job.message.startswith("the gate passed v2")
    assert job.message.endswith("judged on 51 people")
    assert (await versions.get("v2")).gate == PASSED
    serving = await versions.serving()
    assert serving is not None
    assert serving.model_version == ("parent" if no_promotion else "v2")
    async with transaction(pool) as connection:
        cursor = await connection.execute(
            "SELECT job_id, gate FROM trainer.verdicts WHERE model_version = 'v2' ORDER BY seq"
        )
        history = [(row[0], verdict_from_json(row[1])) for row in await cursor.fetchall()]
    assert history == [(training.job_id, UNDECIDED), (job.job_id, PASSED)]


async def test_what_libraries_print_is_not_taken_for_messages(jobs: JobQueue, running):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("chatter"):
        assert (await ended(jobs, job)).state is JobState.SUCCEEDED


async def test_two_runners_never_run_one_job(jobs: JobQueue, running, tmp_path: Path):
    made = [await jobs.create(JobKind.IMPORT, IMPORT, "ada") for _ in range(4)]
    async with running("version", runners=2):
        done = [await ended(jobs, job, 60) for job in made]
    assert [job.state for job in done] == [JobState.SUCCEEDED] * 4
    assert [job.attempts for job in done] == [1] * 4
    assert len(started(tmp_path)) == 4


@pytest.mark.parametrize(
    ("behaviour", "says"),
    [
        ("refuse", r"^checkpoint: holds a cat$"),
        ("crash", r"(?s)exit status 1.*RuntimeError: an unexpected error"),
        ("be_killed", r"SIGKILL.*memory"),
        ("babble", r"internal error"),
    ],
)
async def test_a_job_that_cannot_be_done_fails_with_the_reason(
    jobs: JobQueue, running, behaviour: str, says: str
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running(behaviour):
        failed = await ended(jobs, job)
    assert failed.state is JobState.FAILED
    assert re.search(says, failed.message), failed.message


async def test_a_job_that_needs_more_memory_than_its_limit_names_the_limit_and_the_setting(
    jobs: JobQueue, running
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    limit = MemoryLimit(max_bytes=2**29, setting="MAGFACE_IMPORT_MEMORY_BYTES")
    async with running("fill_the_memory", limit=limit):
        failed = await ended(jobs, job)
    assert failed.state is JobState.FAILED
    assert "536870912 bytes" in failed.message
    assert "MAGFACE_IMPORT_MEMORY_BYTES" in failed.message
    assert "Traceback" not in failed.message


async def test_the_runner_goes_on_after_a_failure(jobs: JobQueue, running):
    made = [await jobs.create(JobKind.IMPORT, IMPORT, "ada") for _ in range(2)]
    async with running("crash"):
        assert [(await ended(jobs, job)).state for job in made] == [JobState.FAILED] * 2


async def test_a_job_whose_store_is_away_is_tried_again_later(jobs: JobQueue, running):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("miss_the_store"):
        waiting = await job_until(jobs, job, lambda job: "trying again" in job.message)
    assert waiting.state is JobState.QUEUED
    assert "the object store cannot be reached; trying again in 2 s" in waiting.message


async def test_a_job_goes_on_through_an_outage_of_postgres_and_keeps_its_result(
    jobs: JobQueue, pool: Pool, running, database_url: str, tmp_path: Path
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("hang_until_told", leases=JobLeases(pool, lease_s=1)):
        await hanging(jobs, job)
        with read_only(database_url):
            await asyncio.sleep(2)
            (tmp_path / "work" / "go").touch()
            await asyncio.sleep(2)
        done = await ended(jobs, job)
    assert (done.state, done.attempts) == (JobState.SUCCEEDED, 1)
    assert done.data_snapshot == "snapshot-1"
    assert len(started(tmp_path)) == 1


@pytest.mark.parametrize(
    ("kind", "spec", "behaviour"),
    [
        (JobKind.IMPORT, IMPORT, "version"),
        (JobKind.EVALUATE, {"model_version": "v1"}, "measure"),
    ],
)
async def test_a_result_waits_until_the_store_takes_it(
    jobs: JobQueue,
    pool: Pool,
    running,
    object_store_settings: ObjectStoreSettings,
    tmp_path: Path,
    *,
    kind: JobKind,
    spec: dict[str, object],
    behaviour: str,
):
    await add_sample(pool, "v1")
    job = await jobs.create(kind, spec, "ada")
    with lying_store(object_store_settings) as store:
        objects = ObjectStore(
            object_store_settings.model_copy(update={"s3_endpoint": store.endpoint})
        )
        completion = JobCompletion(
            pool,
            objects,
            VersionStore(objects, tmp_path / "versions"),
            ServingPointerPublisher(pool, objects),
        )
        async with running(behaviour, leases=JobLeases(pool, lease_s=1), completion=completion):
            with store.lying(page(503)):
                waiting = await job_until(
                    jobs, job, lambda job: re.search("waited [1-9]", job.message)
                )
                assert (waiting.state, waiting.stages[-1].stage) == (
                    *(JobState.RUNNING, Stage.PUBLISHING),
                )
                await asyncio.sleep(1.5)
            done = await ended(jobs, job)
    assert (done.state, done.attempts) == (JobState.SUCCEEDED, 1)
    assert len(started(tmp_path)) == 1


async def test_a_result_that_cannot_be_stored_is_given_up_at_the_limit(
    jobs: JobQueue, pool: Pool, running, tmp_path: Path
):
    nowhere = lost_store()
    completion = JobCompletion(
        pool,
        nowhere,
        VersionStore(nowhere, tmp_path / "versions"),
        ServingPointerPublisher(pool, nowhere),
    )
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    leases = JobLeases(pool, outage_limit_s=1)
    async with running("version", leases=leases, completion=completion):
        failed = await ended(jobs, job)
    assert failed.state is JobState.FAILED
    assert "given up after" in failed.message
    assert "MAGFACE_OUTAGE_LIMIT_S" in failed.message


async def test_a_job_for_which_there_is_no_room_is_tried_again_later(
    jobs: JobQueue, running, tmp_path: Path
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("fill_the_disk"):
        waiting = await job_until(jobs, job, lambda job: "trying again" in job.message)
    assert waiting.state is JobState.QUEUED
    assert re.search(r"no room left .*trying again in 2 s", waiting.message)
    assert str(tmp_path) not in waiting.message


async def test_cancelling_stops_the_worker_and_what_it_started(
    jobs: JobQueue, running, tmp_path: Path
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("hang_with_a_child"):
        worker = await hanging(jobs, job)
        assert len(alive(worker)) >= 2
        await jobs.cancel(job.job_id, "bob")
        cancelled = await ended(jobs, job, timeout_s=2)
        assert alive(worker) == []
    assert (cancelled.state, cancelled.message) == (JobState.CANCELLED, "cancelled by bob")
    assert list((tmp_path / "work").iterdir()) == []


async def test_a_stopped_runner_puts_its_job_back_and_the_next_resumes_it(jobs: JobQueue, running):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("hang_once"):
        worker = await hanging(jobs, job)
    assert alive(worker) == []
    assert (await jobs.get(job.job_id)).state is JobState.QUEUED
    async with running("hang_once"):
        done = await ended(jobs, job)
    assert (done.state, done.data_snapshot) == (JobState.SUCCEEDED, "snapshot-1")
    messages = [event.job.message async for event in jobs.watch(job.job_id, asyncio.Event())]
    assert "resumed on snapshot-1" in messages
    assert [start.stage for start in done.stages] == [
        *(Stage.QUEUED, Stage.STARTING, Stage.EMBEDDING),
        *(Stage.QUEUED, Stage.STARTING, Stage.EMBEDDING, Stage.TRAINING, Stage.PUBLISHING),
    ]


async def test_a_runner_that_was_overtaken_kills_its_worker_and_writes_nothing(
    jobs: JobQueue, pool: Pool, running
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    async with running("hang"):
        worker = await hanging(jobs, job)
        async with pool.connection() as connection:
            await connection.execute(
                "UPDATE trainer.jobs SET fencing_token = fencing_token + 1,"
                " lease_expires_at = now() + interval '1 hour', message = 'mine'"
            )
        await until(lambda: not alive(worker), 3)
    held = await jobs.get(job.job_id)
    assert (held.state, held.message) == (JobState.RUNNING, "mine")


async def test_a_job_outlives_its_trainer_and_its_worker_does_not(
    jobs: JobQueue, running, database_url: str, tmp_path: Path
):
    job = await jobs.create(JobKind.IMPORT, IMPORT, "ada")
    trainer = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tests.services.trainer.lone_runner", database_url),
        *(str(tmp_path / "work"), "hang_once", str(tmp_path / "started")),
    )
    worker = await hanging(jobs, job)
    trainer.kill()
    await trainer.wait()
    await until(lambda: not alive(worker), 2)
    assert (await jobs.get(job.job_id)).state is JobState.RUNNING
    async with running("hang_once"):
        done = await ended(jobs, job)
    assert (done.state, done.attempts) == (JobState.SUCCEEDED, 2)
    assert [start.stage for start in done.stages] == [
        *(Stage.QUEUED, Stage.STARTING, Stage.EMBEDDING),
        *(Stage.STARTING, Stage.EMBEDDING, Stage.TRAINING, Stage.PUBLISHING),
    ]
