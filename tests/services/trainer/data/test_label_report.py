"""Label reports: storage, lookup by job, and pages."""

from dataclasses import replace
from uuid import UUID, uuid4

import pytest

from services.trainer.api.response_converters import pack_report
from services.trainer.data.label_report import (
    AnnotatorReliability,
    LabelReport,
    Suspect,
    Suspicion,
    load_report,
    store_report,
    store_report_without_erased,
)
from services.trainer.data.left_out import LeftOut, LeftOutImage, LeftOutReason
from services.trainer.jobs.leases import JobEnding, JobLeases
from services.trainer.jobs.queue import JobQueue, JobState
from services.trainer.registry.suspects import SuspectLabels
from services.trainer.worker.specs import JobKind
from shared.errors import NotFound
from shared.registry.label_reports import LABEL_REPORTS
from shared.rpc.paging import read_page
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.services.trainer.samples import IMPORT, train_spec

REPORT = LabelReport(
    pairs=1000,
    wrong_share=0.2,
    treated=True,
    suspects=tuple(
        Suspect(f"{n:064x}", f"{n + 1:064x}", n % 2 == 0, 1 - n / 100, why, ("ada",))
        for n, why in enumerate([*[Suspicion.UNLIKELY] * 4, Suspicion.CONTRADICTION])
    ),
    annotators=(
        AnnotatorReliability("eve", 40, 0.2, 0.3),
        AnnotatorReliability("ada", 960, 0.98, 0.99),
    ),
)


# As the release before stored it.
STORED = (
    b'{"pairs":9,"wrong_share":0.2,"treated":true,"suspects":[{"sha256_a":"aa","sha256_b":"bb",'
    b'"same":true,"wrong":0.9,"why":"unlikely","annotators":["ann"]}],"annotators":[{"annotator":'
    b'"ann","votes":9,"genuine_right":0.8,"impostor_right":0.7}]}'
)


def test_a_stored_report_keeps_its_form(object_store: ObjectStore):
    report = LabelReport(
        pairs=9,
        wrong_share=0.2,
        treated=True,
        suspects=(Suspect("aa", "bb", True, 0.9, Suspicion.UNLIKELY, ("ann",)),),
        annotators=(AnnotatorReliability("ann", 9, sensitivity=0.8, specificity=0.7),),
    )
    job_id = uuid4()
    store_report(object_store, job_id, report)
    key = f"{LABEL_REPORTS}{job_id}.json"
    assert object_store.get(key) == STORED[:-1] + b',"left_out":[],"held_out":[]}'
    object_store.put(key, STORED)
    assert load_report(object_store, job_id) == report


def test_images_that_were_left_out_are_stored_without_those_erased_since(
    object_store: ObjectStore,
):
    job_id = uuid4()
    images = [LeftOutImage(name, LeftOutReason.NO_FACE, "shows no face") for name in ("aa", "bb")]
    report = replace(
        LabelReport.of_left_out(LeftOut(tuple(images), 9, 2, 8)), held_out=("aa", "cc")
    )
    store_report_without_erased(object_store, job_id, report, lambda: {"bb", "cc"})
    assert load_report(object_store, job_id) == LabelReport(
        8, 0.0, False, (), (), (images[1],), ("cc",)
    )


def test_held_out_images_alone_are_looked_up_as_well(object_store: ObjectStore):
    job_id = uuid4()
    report = LabelReport(8, 0.0, False, (), (), held_out=("aa", "bb"))
    store_report_without_erased(object_store, job_id, report, lambda: {"bb"})
    assert load_report(object_store, job_id).held_out == ("bb",)


@pytest.fixture
def suspects(pool: Pool, object_store: ObjectStore) -> SuspectLabels:
    return SuspectLabels(pool, object_store)


async def ended(
    jobs: JobQueue, leases: JobLeases, state: JobState, kind: JobKind = JobKind.TRAIN
) -> UUID:
    spec = train_spec() if kind is JobKind.TRAIN else IMPORT
    job = await jobs.create(kind, spec, "ada")
    await leases.finish(await leases.claim(), JobEnding(state, "done"))
    return job.job_id


async def test_the_latest_finished_training_is_asked_when_none_is_named(
    jobs: JobQueue, leases: JobLeases, suspects: SuspectLabels, object_store: ObjectStore
):
    earlier = await ended(jobs, leases, JobState.SUCCEEDED)
    latest = await ended(jobs, leases, JobState.SUCCEEDED)
    await ended(jobs, leases, JobState.FAILED)
    await ended(jobs, leases, JobState.SUCCEEDED, JobKind.IMPORT)
    store_report(object_store, latest, REPORT)
    assert await suspects.report(None) == (latest, REPORT)
    with pytest.raises(NotFound, match=f"job {earlier} has no report"):
        await suspects.report(earlier)


async def test_what_has_not_succeeded_as_a_training_lists_nothing(
    jobs: JobQueue, leases: JobLeases, suspects: SuspectLabels, object_store: ObjectStore
):
    with pytest.raises(NotFound, match="no training has succeeded"):
        await suspects.report(None)
    for job_id in (
        uuid4(),
        await ended(jobs, leases, JobState.FAILED),
        await ended(jobs, leases, JobState.SUCCEEDED, JobKind.IMPORT),
    ):
        store_report(object_store, job_id, REPORT)
        with pytest.raises(NotFound, match=f"{job_id} is no training"):
            await suspects.report(job_id)


def test_pages_hold_every_suspect_once_and_annotators_at_first():
    job_id, token, pages = uuid4(), "", []
    while not pages or token:
        pages.append(pack_report(job_id, REPORT, read_page(2, token)))
        token = pages[-1].next_page_token
    assert [len(page.suspects) for page in pages] == [2, 2, 1]
    assert [one.sha256_a for page in pages for one in page.suspects] == [
        one.sha256_a for one in REPORT.suspects
    ]
    assert [len(page.annotators) for page in pages] == [2, 0, 0]
    assert {page.job_id for page in pages} == {str(job_id)}


def test_a_token_beyond_the_list_begins_it():
    assert len(pack_report(uuid4(), REPORT, read_page(9, "77")).suspects) == len(REPORT.suspects)
