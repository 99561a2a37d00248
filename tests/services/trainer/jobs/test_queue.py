"""The job queue: clients queue, watch and cancel jobs, runners claim them."""

import asyncio
import shutil
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest

from services.trainer.evaluation.gate import GateCheck, GateVerdict
from services.trainer.jobs.leases import MAX_ATTEMPTS, JobEnding, JobLeases, enter_stage
from services.trainer.jobs.queue import Job, JobQueue, JobState
from services.trainer.progress import Progress, Stage
from services.trainer.registry.versions import VersionRegistry
from services.trainer.server import MIGRATIONS, SCHEMA
from services.trainer.worker.specs import JobKind
from shared.errors import Conflict, NotFound, Overloaded, PreconditionFailed, Unavailable
from shared.settings import DatabaseSettings
from shared.storage.idempotency import IdempotencyKey
from shared.storage.migrations import apply_migrations
from shared.storage.postgres import Pool, open_pool
from tests.services.trainer.samples import IMPORT, add_sample, train_spec
from tests.support.waiting import until

WORSE = GateVerdict((GateCheck("heldout_errors", False, 0.2, 0.1, "more errors"),))
DONE = JobEnding(JobState.SUCCEEDED, "done", "iresnet18-00000000")


async def create(jobs: JobQueue, count: int = 1) -> list:
    return [await jobs.create(JobKind.IMPORT, IMPORT, "ada") for _ in range(count)]


async def pass_time(pool: Pool, seconds: float) -> None:
    """Make every lease older by so many seconds."""
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE trainer.jobs"
            " SET lease_expires_at = lease_expires_at - make_interval(secs => %s)",
            [seconds],
        )


async def test_a_job_is_kept_as_it_was_asked_for(jobs: JobQueue):
    spec = train_spec("iresnet18-1")
    made = await jobs.create(JobKind.TRAIN, spec, "ada")
    job = await jobs.get(made.job_id)
    assert job == made
    assert (job.kind, job.state, job.spec) == (JobKind.TRAIN, JobState.QUEUED, spec)
    assert (job.requested_by, job.progress, job.attempts) == ("ada", 0, 0)
    assert job.started_at is None
    assert job.ended_at is None


async def test_no_more_jobs_wait_than_the_setting_says(pool: Pool):
    jobs = JobQueue(pool, most_queued=2)
    key = IdempotencyKey.of("ada", "k", "import", file="x")
    first = await jobs.create(JobKind.IMPORT, IMPORT, "ada", key)
    await create(jobs)
    with pytest.raises(Overloaded, match=r"2 jobs wait already.*MAGFACE_QUEUED_JOBS") as refused:
        await create(jobs)
    assert refused.value.retry_after_s > 0
    # A repeated call gets its job all the same.
    assert await jobs.create(JobKind.IMPORT, IMPORT, "ada", key) == first
    await jobs.cancel(first.job_id, "ada")
    await create(jobs)


async def test_jobs_are_listed_newest_first_and_in_pages(jobs: JobQueue):
    made = await create(jobs, 3)
    newest = await jobs.list(2)
    assert newest == [made[2], made[1]]
    assert await jobs.list(2, before=newest[-1].seq) == [made[0]]


async def test_an_unknown_job_is_not_found(jobs: JobQueue):
    for ask in (jobs.get(uuid4()), jobs.cancel(uuid4(), "ada"), first_event(jobs, uuid4())):
        with pytest.raises(NotFound):
            await ask


async def first_event(jobs: JobQueue, job_id):
    return await anext(jobs.watch(job_id, asyncio.Event()))


async def test_the_oldest_job_is_claimed_first(jobs: JobQueue, leases: JobLeases):
    made = await create(jobs, 2)
    claims = [await leases.claim(), await leases.claim()]
    assert [claim.job.job_id for claim in claims] == [job.job_id for job in made]
    assert claims[0].job.state is JobState.RUNNING
    assert claims[0].job.started_at is not None
    assert await leases.claim() is None


async def test_two_runners_never_claim_one_job(jobs: JobQueue, pool: Pool):
    made = await create(jobs, 20)
    runners = [JobLeases(pool) for _ in range(8)]
    claims = await asyncio.gather(*(runner.claim() for runner in runners * 4))
    claimed = [claim.job.job_id for claim in claims if claim]
    assert sorted(claimed) == sorted(job.job_id for job in made)


async def test_a_job_whose_lease_ran_out_is_taken_over(jobs: JobQueue, pool: Pool):
    await create(jobs)
    lost = await JobLeases(pool, lease_s=60).claim()
    assert await JobLeases(pool).claim() is None
    await pass_time(pool, 61)
    taken = await JobLeases(pool).claim()
    assert taken.job.job_id == lost.job.job_id
    assert taken.fencing_token > lost.fencing_token
    assert taken.job.attempts == 2
    assert taken.job.started_at == lost.job.started_at


async def test_a_heartbeat_keeps_the_job(jobs: JobQueue, pool: Pool):
    await create(jobs)
    leases = JobLeases(pool, lease_s=60)
    claim = await leases.claim()
    for _ in range(3):
        await pass_time(pool, 40)
        assert await leases.renew(claim) is None
        assert await JobLeases(pool).claim() is None


async def test_a_zombies_writes_are_refused(jobs: JobQueue, pool: Pool):
    await create(jobs)
    leases = JobLeases(pool, lease_s=60)
    zombie = await leases.claim()
    await pass_time(pool, 61)
    successor = await JobLeases(pool).claim()
    before = await jobs.get(successor.job.job_id)
    for write in (
        leases.renew(zombie),
        leases.record_progress(zombie, Progress(Stage.TRAINING, 0.9, "zombie")),
        leases.enter_stage(zombie, Stage.PUBLISHING, "zombie"),
        leases.set_snapshot(zombie, "zombie"),
        leases.release(zombie),
        leases.retry_later(zombie, "zombie"),
        leases.finish(zombie, DONE),
    ):
        with pytest.raises(Conflict, match="another runner"):
            await write
    assert await jobs.get(successor.job.job_id) == before
    await leases.finish(successor, DONE)


async def test_an_expired_lease_nobody_took_over_still_counts(jobs: JobQueue, pool: Pool):
    await create(jobs)
    leases = JobLeases(pool, lease_s=60)
    claim = await leases.claim()
    await pass_time(pool, 61)
    await leases.finish(claim, DONE)
    assert (await jobs.get(claim.job.job_id)).state is JobState.SUCCEEDED


async def test_an_ended_job_takes_no_more_writes(jobs: JobQueue, leases: JobLeases):
    await create(jobs)
    claim = await leases.claim()
    await leases.finish(claim, DONE)
    with pytest.raises(Conflict):
        await leases.record_progress(claim, Progress(Stage.TRAINING, 0.1, "late"))


async def test_a_watcher_sees_every_event_and_then_the_end(jobs: JobQueue, leases: JobLeases):
    await create(jobs)
    claim = await leases.claim()
    events = []
    watching = asyncio.create_task(watch(jobs, claim.job.job_id, events))
    figures = {"loss": 0.25, "epoch": 1}
    await leases.record_progress(claim, Progress(Stage.TRAINING, 0.5, "half way", figures))
    figures = {"loss": float("nan"), "epoch": 2}
    await leases.record_progress(claim, Progress(Stage.TRAINING, 0.6, "diverging", figures))
    await until(lambda: len(events) == 4)
    await leases.finish(claim, JobEnding(JobState.SUCCEEDED, "refused", "v1", WORSE))
    await asyncio.wait_for(watching, 60)
    recorded = [(e.job.state, e.job.progress, e.job.message, e.figures) for e in events]
    assert recorded == [
        (JobState.QUEUED, 0, "waiting", {}),
        (JobState.RUNNING, 0, "started", {}),
        (JobState.RUNNING, 0.5, "half way", {"loss": 0.25, "epoch": 1}),
        (JobState.RUNNING, pytest.approx(0.6), "diverging", {"epoch": 2}),
        (JobState.SUCCEEDED, 1, "refused", {}),
    ]
    assert events[2].job.gate is None
    assert events[2].job.model_version is None
    last = events[-1].job
    assert (last.model_version, last.gate) == ("v1", WORSE)
    assert last == await jobs.get(claim.job.job_id)
    assert await collect(jobs, claim.job.job_id) == events


async def watch(jobs: JobQueue, job_id, events: list) -> None:
    """Append each event to the list as it comes."""
    async for event in jobs.watch(job_id, asyncio.Event()):
        events.append(event)  # noqa: PERF401 - others look at the list meanwhile


async def collect(jobs: JobQueue, job_id) -> list:
    events = []
    await watch(jobs, job_id, events)
    return events


async def test_watchers_are_sent_away_when_the_trainer_stops(jobs: JobQueue):
    (job,) = await create(jobs)
    stopping = asyncio.Event()
    watcher = jobs.watch(job.job_id, stopping)
    await anext(watcher)
    stopping.set()
    with pytest.raises(Unavailable):
        await anext(watcher)


async def test_a_waiting_job_is_cancelled_at_once(jobs: JobQueue, leases: JobLeases):
    (job,) = await create(jobs)
    cancelled = await jobs.cancel(job.job_id, "bob")
    assert (cancelled.state, cancelled.message) == (JobState.CANCELLED, "cancelled by bob")
    assert cancelled.ended_at is not None
    assert await leases.claim() is None


async def test_a_running_jobs_runner_learns_who_wants_it_cancelled(
    jobs: JobQueue, leases: JobLeases
):
    await create(jobs)
    claim = await leases.claim()
    assert (await jobs.cancel(claim.job.job_id, "bob")).state is JobState.RUNNING
    assert await leases.renew(claim) == "bob"


async def test_an_ended_job_cannot_be_cancelled(jobs: JobQueue, leases: JobLeases):
    await create(jobs)
    claim = await leases.claim()
    await leases.finish(claim, DONE)
    with pytest.raises(PreconditionFailed, match="succeeded"):
        await jobs.cancel(claim.job.job_id, "bob")


async def test_a_released_job_goes_on_at_once_and_the_attempt_does_not_count(
    jobs: JobQueue, leases: JobLeases
):
    await create(jobs)
    claim = await leases.claim()
    await leases.set_snapshot(claim, "snapshot-1")
    await leases.release(claim)
    again = await leases.claim()
    assert (again.job.attempts, again.job.data_snapshot) == (1, "snapshot-1")


async def end_pause(pool: Pool, after_s: float = 0) -> None:
    """Make a job that was put off due, and its outage older."""
    async with pool.connection() as connection:
        await connection.execute(
            "UPDATE trainer.jobs SET not_before = now(),"
            " blocked_since = blocked_since - make_interval(secs => %s)",
            [after_s],
        )


async def meet_outage(pool: Pool, leases: JobLeases, after_s: float = 0) -> str:
    """Claim the job so many seconds later, and put it off; returns its message."""
    await end_pause(pool, after_s)
    claim = await leases.claim()
    await leases.retry_later(claim, "the store is away")
    assert await leases.claim() is None
    return (await JobQueue(pool).get(claim.job.job_id)).message


async def test_a_job_waits_out_an_outage_up_to_the_limit(jobs: JobQueue, pool: Pool):
    (job,) = await create(jobs)
    leases = JobLeases(pool, outage_limit_s=600)
    assert await meet_outage(pool, leases) == (
        "the store is away; trying again in 2 s (waited 0 s, at most 600 s)"
    )
    for after_s in (2, 5, 10, 20, 40, 80, 160, 270):
        assert "the store is away; trying again in" in await meet_outage(pool, leases, after_s)
    assert (await jobs.get(job.job_id)).state is JobState.QUEUED
    message = await meet_outage(pool, leases, 14)
    assert message == "the store is away; given up after 601 s; MAGFACE_OUTAGE_LIMIT_S is 600"
    assert (await jobs.get(job.job_id)).state is JobState.FAILED


async def test_outages_are_not_counted_among_the_ends_of_trainers(jobs: JobQueue, pool: Pool):
    await create(jobs)
    for _ in range(2 * MAX_ATTEMPTS):
        await meet_outage(pool, JobLeases(pool))
    await end_pause(pool)
    leases = JobLeases(pool, lease_s=0)
    attempts = [(await leases.claim()).job.attempts for _ in range(MAX_ATTEMPTS)]
    assert attempts == list(range(1, MAX_ATTEMPTS + 1))


async def test_an_outage_ends_when_the_job_gets_further_than_before(jobs: JobQueue, pool: Pool):
    await create(jobs)
    leases = JobLeases(pool, outage_limit_s=100)
    # How far each attempt gets, and how long the outage has lasted then.
    attempts = ((0.1, "waited 0 s"), (0.1, "waited 90 s"), (0.3, "waited 0 s"), (0.2, "given up"))
    for done, expected in attempts:
        await end_pause(pool, 101 if expected == "given up" else 90)
        claim = await leases.claim()
        await leases.record_progress(claim, Progress(Stage.TRAINING, done, "training"))
        await leases.retry_later(claim, "the store is away")
        assert expected in (await jobs.get(claim.job.job_id)).message


async def test_a_job_that_names_no_version_works_on_the_one_that_serves_when_it_begins(
    jobs: JobQueue, leases: JobLeases, pool: Pool, versions: VersionRegistry
):
    for version in ("v1", "v2", "v3"):
        await add_sample(pool, version)

    async def promote(version: str) -> None:
        await versions.promote(version, requested_by="ada", reason="")

    await promote("v1")
    made = [await jobs.create(JobKind.TRAIN, train_spec(None), "ada") for _ in range(2)]
    first = await leases.claim()
    assert first.job.base_version == "v1"
    await promote("v2")
    await leases.finish(first, JobEnding(JobState.SUCCEEDED, "done"))
    second = await leases.claim()
    assert (second.job.job_id, second.job.base_version) == (made[1].job_id, "v2")
    # It has done nothing yet, so the next attempt begins on what serves then.
    await leases.release(second)
    await promote("v3")
    again = await leases.claim()
    assert again.job.base_version == "v3"
    await leases.set_snapshot(again, "snapshot-1")
    await leases.release(again)
    await promote("v1")
    assert (await leases.claim()).job.base_version == "v3"


async def test_a_job_that_kills_every_trainer_is_given_up(jobs: JobQueue, pool: Pool):
    (job, other) = await create(jobs, 2)
    leases = JobLeases(pool, lease_s=0)
    for _ in range(MAX_ATTEMPTS):
        assert (await leases.claim()).job.job_id == job.job_id
    assert (await leases.claim()).job.job_id == other.job_id
    ended = await jobs.get(job.job_id)
    assert (ended.state, "given up" in ended.message) == (JobState.FAILED, True)


def stages_of(job: Job) -> list[Stage]:
    return [start.stage for start in job.stages]


async def test_each_stage_is_kept_once_with_its_start(jobs: JobQueue, leases: JobLeases):
    (job,) = await create(jobs)
    assert [(start.stage, start.started_at) for start in job.stages] == [
        (Stage.QUEUED, job.created_at)
    ]
    claim = await leases.claim()
    await leases.record_progress(claim, Progress(Stage.EMBEDDING, 0.1, "embedding"))
    await leases.record_progress(claim, Progress(Stage.TRAINING, 0.2, "training, epoch 1"))
    await leases.record_progress(claim, Progress(Stage.TRAINING, 0.3, "training, epoch 2"))
    await leases.enter_stage(claim, Stage.PUBLISHING, "publishing")
    await leases.finish(claim, DONE)
    events = await collect(jobs, job.job_id)
    entered = [Stage.QUEUED, Stage.STARTING, Stage.EMBEDDING, Stage.TRAINING, Stage.PUBLISHING]
    assert [stages_of(event.job) for event in events] == [
        entered[:1],
        entered[:2],
        entered[:3],
        entered[:4],
        entered[:4],
        entered,
        entered,
    ]
    assert events[5].job.progress == pytest.approx(0.3)
    ended = await jobs.get(job.job_id)
    assert events[-1].job == ended
    began = {event.job.stages[-1].stage: event.at for event in reversed(events)}
    assert {start.stage: start.started_at for start in ended.stages} == began


async def test_each_attempt_begins_a_stage_of_its_own(jobs: JobQueue, pool: Pool):
    await create(jobs)
    leases = JobLeases(pool, lease_s=0)
    claim = await leases.claim()
    await leases.retry_later(claim, "the store is away")
    async with pool.connection() as connection:
        await connection.execute("UPDATE trainer.jobs SET not_before = now()")
    await leases.claim()
    # Both of these trainers end while they start a worker.
    claim = await leases.claim()
    await leases.finish(claim, DONE)
    ended = await jobs.get(claim.job.job_id)
    queued, starting = Stage.QUEUED, Stage.STARTING
    assert stages_of(ended) == [queued, starting, queued, starting, starting]
    moments = [start.started_at for start in ended.stages]
    assert moments == sorted(moments)


async def test_a_stages_start_never_lies_before_the_one_before(
    jobs: JobQueue, leases: JobLeases, pool: Pool
):
    await create(jobs)
    claim = await leases.claim()
    async with pool.connection() as late, late.transaction():
        # Its transaction begins first and enters its stage last.
        await late.execute("SELECT now()")
        await leases.enter_stage(claim, Stage.EMBEDDING, "first")
        await enter_stage(late, claim, Stage.TRAINING, "second")
    job = await jobs.get(claim.job.job_id)
    assert stages_of(job)[-2:] == [Stage.EMBEDDING, Stage.TRAINING]
    assert job.stages[-1].started_at == job.stages[-2].started_at


async def test_jobs_from_before_stages_were_kept_are_read(database_url: str, tmp_path: Path):
    for file in sorted(MIGRATIONS.glob("*.sql")):
        if file.name.endswith("job_stages.sql"):
            break
        shutil.copy(file, tmp_path)
    apply_migrations(database_url, SCHEMA, tmp_path)
    ended, running = uuid4(), uuid4()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.cursor().executemany(
            "INSERT INTO trainer.jobs"
            " (job_id, kind, spec, requested_by, state, ended_at, lease_expires_at, attempts)"
            " VALUES (%s, 'import', '{}', 'ada', %s, %s::timestamptz, %s::timestamptz, 1)",
            [(ended, "succeeded", "now", None), (running, "running", None, "now")],
        )
        connection.cursor().executemany(
            "INSERT INTO trainer.job_events (job_id, state, progress, message)"
            " VALUES (%s, %s, 1, 'told before')",
            [(ended, "succeeded"), (running, "running")],
        )
    apply_migrations(database_url, SCHEMA, MIGRATIONS)
    async with await open_pool(DatabaseSettings(database_url=database_url)) as pool:
        jobs, leases = JobQueue(pool), JobLeases(pool)
        assert [job.stages for job in await jobs.list(10)] == [(), ()]
        (event,) = await collect(jobs, ended)
        assert (event.job.message, event.job.stages) == ("told before", ())
        claim = await leases.claim()
        assert (claim.job.job_id, stages_of(claim.job)) == (running, [Stage.STARTING])
        await leases.finish(claim, JobEnding(JobState.FAILED, "no"))
        stages = [stages_of(event.job) for event in await collect(jobs, running)]
        assert stages == [[], [Stage.STARTING], [Stage.STARTING]]


async def test_the_messages_of_jobs_hold_no_whole_hash_of_an_image(
    jobs: JobQueue, leases: JobLeases, pool: Pool
):
    """An erasure does not change them."""
    (job,) = await create(jobs)
    claim = await leases.claim()
    said = f"image {'ab' * 32} is skipped; iresnet18-{'cd' * 4}"
    await leases.record_progress(claim, Progress(Stage.TRAINING, 0.5, said))
    await leases.enter_stage(claim, Stage.PUBLISHING, f"{'0f' * 32}, {'1e' * 32}")
    await leases.finish(claim, JobEnding(JobState.FAILED, f"{said} ({'0F' * 32})"))
    messages = [event.job.message for event in await collect(jobs, job.job_id)]
    assert messages[-3:-1] == [
        "image abababab… is skipped; iresnet18-cdcdcdcd",
        "0f0f0f0f…, 1e1e1e1e…",
    ]
    async with pool.connection() as connection:
        for table in ("jobs", "job_events"):
            cursor = await connection.execute(
                f"SELECT count(*) FROM trainer.{table} WHERE message ~* '[0-9a-f]{{64}}'"  # noqa: S608
            )
            assert await cursor.fetchone() == (0,)


async def test_whole_hashes_in_earlier_messages_are_cut_short(database_url: str, tmp_path: Path):
    for file in sorted(MIGRATIONS.glob("*.sql")):
        if file.name.endswith("short_hashes.sql"):
            break
        shutil.copy(file, tmp_path)
    apply_migrations(database_url, SCHEMA, tmp_path)
    said, job_id = f"image {'ab' * 32} is gone; job {uuid4()}", uuid4()
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO trainer.jobs (job_id, kind, spec, requested_by, message)"
            " VALUES (%s, 'import', '{}', 'ada', %s)",
            (job_id, said),
        )
        connection.execute(
            "INSERT INTO trainer.job_events (job_id, state, progress, message)"
            " VALUES (%s, 'queued', 1, %s)",
            (job_id, said),
        )
        apply_migrations(database_url, SCHEMA, MIGRATIONS)
        kept = [
            connection.execute(f"SELECT message FROM trainer.{table}").fetchone()  # noqa: S608
            for table in ("jobs", "job_events")
        ]
    assert kept == 2 * [(said.replace("ab" * 32, "abababab…"),)]
