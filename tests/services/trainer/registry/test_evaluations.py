"""Evaluations: recorded by the runner that holds the job, listed with their reports."""

from dataclasses import replace

import pytest

from services.trainer.api.response_converters import pack_evaluation
from services.trainer.evaluation.result import EvaluationResult
from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.leases import JobLeases
from services.trainer.jobs.queue import JobQueue, JobState
from services.trainer.registry.evaluations import EvaluationStore
from services.trainer.worker.specs import JobKind
from shared.errors import Conflict, NotFound, Unavailable
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import add_sample, result_of
from tests.support.lost_store import lost_store


@pytest.fixture
def evaluations(pool: Pool, object_store: ObjectStore) -> EvaluationStore:
    return EvaluationStore(pool, object_store)


@pytest.fixture
def finish(jobs: JobQueue, leases: JobLeases, completion: JobCompletion, tmp_path):
    """Run an evaluation job to its end, as a runner would; returns the job."""

    async def finish(result: EvaluationResult):
        spec = {"model_version": result.model_version}
        job = await jobs.create(JobKind.EVALUATE, spec, "ada")
        claim = await leases.claim()
        page = tmp_path / "page.html"
        page.write_text(f"page of {job.job_id}")
        await completion.publish_report(claim.job, page)
        await completion.record_evaluation(claim, result)
        return await jobs.get(job.job_id)

    return finish


async def test_a_result_is_kept_with_its_version_and_its_page(
    finish, pool: Pool, evaluations: EvaluationStore
):
    for version in ("v1", "v2"):
        await add_sample(pool, version)
    alone = await finish(result_of("v1"))
    job = await finish(result_of("v2", against="v1"))
    assert (job.state, job.model_version) == (JobState.SUCCEEDED, "v2")
    assert "50.00 % of 4 pairs" in job.message
    assert "against v1 it fixes 1 and breaks 0" in job.message
    assert "trained on images of 3 of these pairs" in job.message
    newest, older = await evaluations.list(10)
    assert (newest.job_id, older.job_id) == (job.job_id, alone.job_id)
    assert newest.result == result_of("v2", against="v1")
    assert [found.job_id for found in await evaluations.list(10, newest.seq)] == [alone.job_id]
    assert [found.job_id for found in await evaluations.list(10, None, "v2")] == [job.job_id]
    assert await evaluations.report(job.job_id) == f"page of {job.job_id}".encode()


async def test_a_job_that_measured_nothing_has_no_page(pool: Pool, evaluations: EvaluationStore):
    job = await add_sample(pool, "v1")
    with pytest.raises(NotFound, match=f"no evaluation of job {job.job_id}"):
        await evaluations.report(job.job_id)


async def test_the_result_of_a_runner_that_was_overtaken_is_refused(
    jobs: JobQueue,
    leases: JobLeases,
    completion: JobCompletion,
    pool: Pool,
    evaluations: EvaluationStore,
):
    await add_sample(pool, "v1")
    await jobs.create(JobKind.EVALUATE, {"model_version": "v1"}, "ada")
    claim = await leases.claim()
    zombie = replace(claim, fencing_token=claim.fencing_token - 1)
    with pytest.raises(Conflict):
        await completion.record_evaluation(zombie, result_of("v1"))
    assert await evaluations.list(10) == []


async def test_a_store_that_is_away_is_said_to_be(pool: Pool):
    job = await add_sample(pool, "v1")
    with pytest.raises(Unavailable):
        await EvaluationStore(pool, lost_store()).report(job.job_id)


async def test_the_contract_leaves_out_what_the_pairs_cannot_support(
    finish, pool: Pool, evaluations: EvaluationStore
):
    await add_sample(pool, "v1")
    await add_sample(pool, "v2")
    await finish(result_of("v2", against="v1"))
    (stored,) = await evaluations.list(10)
    packed = pack_evaluation(stored)
    assert packed.figures.values["accuracy"] == 0.5
    assert not [name for name in packed.figures.values if name.startswith("tar_at_far")]
    assert (packed.figures.tp, packed.figures.fn) == (1, 1)
    assert (packed.figures.tn, packed.figures.fp) == (1, 1)
    low, high = (getattr(packed.figures.intervals["accuracy"], end) for end in ("low", "high"))
    assert low <= 0.5 <= high
    assert packed.against.model_version == "v1"
    assert packed.against.figures.values["accuracy"] == 0.25
    assert (packed.against.fixed, packed.against.broken, packed.against.p_value) == (1, 0, 1)
    assert packed.against.difference_intervals["accuracy"].low >= 0
