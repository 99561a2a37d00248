"""Tests of erasure: nothing of an erased image is left but an audit entry."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from uuid import uuid4

import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from deploy.local.postgres import program
from services.feedback.erasure import queries as erasure_queries
from services.feedback.erasure.eraser import Eraser
from services.feedback.erasure.retention import sweep_orphans
from services.feedback.erasure.row_deletion import delete_rows
from services.feedback.images.vault import ImageVault
from services.feedback.labels.service import LabelService
from services.feedback.pool.importer import PoolImage, PoolImporter, image_bytes
from services.feedback.server import open_erasure_backend, open_label_service, prepare_stores
from services.feedback.settings import FeedbackSettings
from services.trainer.data.label_report import (
    LabelReport,
    Suspicion,
    store_report,
    store_report_without_erased,
    suspect,
)
from services.trainer.data.labels import LabelledPair
from shared.errors import AlreadyExists, NotFound, Unavailable
from shared.model.image.face import FaceImage
from shared.registry.erasure_mark import read_erasure_generation
from shared.rpc.budget import ByteBudget
from shared.rpc.streams import BudgetedRequests
from shared.storage.objects import ObjectStore, image_key
from shared.storage.postgres import Pool, transaction
from tests.services.feedback.support.bulk_rows import fill
from tests.services.feedback.support.helpers import (
    Stored,
    feedback,
    picture,
    request,
    sha256,
    vaults,
)
from tests.support.waiting import retry_while_unavailable, wait_until

Stub = feedback_pb2_grpc.FeedbackServiceStub


@dataclass
class Domain:
    labels: LabelService
    eraser: Eraser
    pool: Pool
    vault: ImageVault


@pytest.fixture
def settings(settings: FeedbackSettings) -> FeedbackSettings:
    """Images may be stored again after their erasure; `test_tombstones.py` has the default."""
    return settings.model_copy(update={"feedback_tombstone_days": 0})


@pytest.fixture
async def domain(settings: FeedbackSettings, object_store: ObjectStore) -> AsyncIterator[Domain]:
    """Label service and eraser on real stores, without gRPC."""
    await prepare_stores(settings, object_store)
    async with (
        open_label_service(settings, vaults(settings, object_store)) as (labels, pool),
        open_erasure_backend(
            settings, object_store, vaults(settings, object_store), pool
        ) as erasure,
    ):
        with vaults(settings, object_store)() as vault:
            yield Domain(labels, erasure.eraser, pool, vault)


def name_subject(database_url: str, number: int, subject: str) -> None:
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.image_subjects (sha256, subject) VALUES (%s, %s)",
            [bytes.fromhex(sha256(number)), subject],
        )


def _embed(database_url: str, number: int) -> str:
    """Insert an embedding into the pool; returns it as a dump shows it."""
    embedding = "[0.123456,0.654321,0.111222]"
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.pool_versions (model_version, dimensions, threshold)"
            " VALUES ('v', 3, 0.4)"
        )
        connection.execute(
            "CREATE TABLE feedback.embeddings_1 PARTITION OF feedback.embeddings FOR VALUES IN (1)"
        )
        connection.execute(
            "INSERT INTO feedback.embeddings (version_id, sha256, embedding, quality)"
            " VALUES (1, %s, %s, 0.5)",
            [bytes.fromhex(sha256(number)), embedding],
        )
    return embedding


def _dump(database_url: str) -> str:
    command = [str(program("pg_dump")), "--dbname", database_url]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def _found(needle: bytes, objects: ObjectStore) -> list[str]:
    return [
        found.key
        for found in objects.list()
        if needle.hex() in found.key or needle in objects.get(found.key)
    ]


async def test_after_erasure_no_table_object_export_or_backup_holds_anything_of_the_subject(
    domain: Domain, object_store: ObjectStore, database_url: str
) -> None:
    labels, eraser = domain.labels, domain.eraser
    for other in (2, 3):
        await labels.submit(feedback(1, other))
    await labels.submit(feedback(2, 3))
    name_subject(database_url, 1, "Jane Roe")
    embedding = _embed(database_url, 1)
    wrong = suspect(LabelledPair(sha256(1), sha256(2), True, 1.0, ()), 0.9, Suspicion.UNLIKELY)
    store_report(object_store, uuid4(), LabelReport(3, 0.1, False, (wrong,), ()))
    before = _dump(database_url)
    assert all(trace in before for trace in (sha256(1), "Jane Roe", embedding))
    assert _found(picture(1), object_store) == [image_key(sha256(1))]
    assert len(_found(sha256(1).encode(), object_store)) == 1
    (snapshot_id, pairs), *_ = [part async for part in labels.export("")]
    assert len(pairs) == 3
    generation = read_erasure_generation(object_store)

    erasure = await eraser.erase_subject("Jane Roe", "dpo", "ticket-7")

    assert (erasure.images, erasure.pairs, erasure.labels) == (1, 2, 2)
    assert erasure.snapshot_ids == (snapshot_id,)
    assert erasure.finished_at is not None
    after = _dump(database_url)
    for trace in (sha256(1), "Jane Roe", embedding, picture(1).hex()):
        assert trace not in after
    for needle in (picture(1), bytes.fromhex(sha256(1)), sha256(1).encode(), b"Jane Roe"):
        assert _found(needle, object_store) == []
    ((_, pairs),) = [part async for part in labels.export(snapshot_id)]
    assert [(pair.image_a, pair.image_b) for pair in pairs] == [
        tuple(sorted((sha256(2), sha256(3))))
    ]
    assert read_erasure_generation(object_store) != generation
    with pytest.raises(NotFound):
        await labels.get_image(sha256(1))


def _suspecting(*numbers: int) -> LabelReport:
    """A label report that suspects the pairs of image 3 and each of some others."""
    suspects = [
        suspect(LabelledPair(sha256(number), sha256(3), True, 1.0, ()), 0.9, Suspicion.UNLIKELY)
        for number in numbers
    ]
    return LabelReport(3, 0.1, False, tuple(suspects), ())


async def _images_of(labels: LabelService, snapshot_id: str) -> set[str]:
    return {
        sha256
        async for _, pairs in labels.export(snapshot_id)
        for pair in pairs
        for sha256 in (pair.image_a, pair.image_b)
    }


@pytest.mark.parametrize("late", [False, True], ids=["while it trains", "while it writes"])
async def test_a_training_that_an_erasure_overtakes_leaves_no_report_of_the_image(
    domain: Domain, object_store: ObjectStore, late: bool
) -> None:
    labels, eraser, loop = domain.labels, domain.eraser, asyncio.get_running_loop()
    for other in (1, 2):
        await labels.submit(feedback(other, 3))
    ((snapshot_id, _),) = [part async for part in labels.export("")]

    def erase() -> None:
        erasing = eraser.erase_image(sha256(1), "dpo", "ticket")
        asyncio.run_coroutine_threadsafe(erasing, loop).result(20)

    looks = 0

    def still_stored() -> set[str]:
        nonlocal looks
        looks += 1
        found = asyncio.run_coroutine_threadsafe(_images_of(labels, snapshot_id), loop).result(20)
        if late and looks == 1:
            # Clears no report: it is not written yet.
            erase()
        return found

    if not late:
        await asyncio.to_thread(erase)
    report, job_id = _suspecting(1, 2), uuid4()
    await asyncio.to_thread(store_report_without_erased, object_store, job_id, report, still_stored)
    assert looks == (3 if late else 2)
    assert _found(sha256(1).encode(), object_store) == []
    assert len(_found(sha256(2).encode(), object_store)) == 1


async def test_what_a_killed_training_left_of_an_erased_image_goes_with_the_next_look(
    domain: Domain, object_store: ObjectStore
) -> None:
    for other in (1, 2):
        await domain.labels.submit(feedback(other, 3))
    await domain.eraser.erase_image(sha256(1), "dpo", "ticket")
    store_report(object_store, uuid4(), _suspecting(1, 2))
    assert len(_found(sha256(1).encode(), object_store)) == 1
    await domain.eraser.clear_derived()
    assert _found(sha256(1).encode(), object_store) == []
    assert len(_found(sha256(2).encode(), object_store)) == 1


async def test_counts_and_consensus_are_as_if_the_image_had_never_come(
    domain: Domain, stored: Callable[[], Stored]
) -> None:
    labels, eraser = domain.labels, domain.eraser
    await labels.submit(feedback(2, 3))
    before = await labels.stats(), stored()
    for other in (2, 3, 4):
        await labels.submit(feedback(1, other))
    for number in (1, 4):
        await eraser.erase_image(sha256(number), "dpo", f"ticket-{number}")
    assert (await labels.stats(), stored()) == before


async def test_images_in_more_pairs_than_one_transaction_deletes_are_erased_with_all_of_them(
    domain: Domain, stored: Callable[[], Stored], database_url: str
) -> None:
    fill(database_url, images=100, pairs=4_000, labels=8_000)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.image_subjects (sha256, subject)"
            " SELECT sha256, 'somebody' FROM feedback.images ORDER BY sha256 LIMIT 60"
        )
    erasure = await domain.eraser.erase_subject("somebody", "dpo", "ticket")
    assert erasure.images == 60
    assert erasure.pairs > 3_000
    left, stats = stored(), await domain.labels.stats()
    assert (left.images, left.pairs, left.labels) == (
        40,
        4_000 - erasure.pairs,
        8_000 - erasure.labels,
    )
    assert (stats.images, stats.pairs, stats.labels) == (left.images, left.pairs, left.labels)
    assert left.pair_consensus == left.pairs


async def test_an_image_that_came_back_is_not_erased_by_who_still_thinks_it_is_listed(
    domain: Domain, stored: Callable[[], Stored]
) -> None:
    await domain.labels.submit(feedback(1, 2))
    await domain.eraser.erase_image(sha256(1), "dpo", "ticket")
    await domain.labels.submit(feedback(1, 2))
    async with transaction(domain.pool) as connection:
        hashes = [bytes.fromhex(sha256(1))]
        assert await delete_rows(connection, "ticket", hashes, tombstones=True)
    assert (stored().images, stored().labels) == (2, 1)


async def test_an_erasure_asked_for_twice_is_one_and_takes_what_came_back(
    domain: Domain, stored: Callable[[], Stored], database_url: str
) -> None:
    labels, eraser = domain.labels, domain.eraser
    await labels.submit(feedback(1, 2))
    first = await eraser.erase_image(sha256(1), "dpo", "ticket")
    assert await eraser.erase_image(sha256(1), "dpo", "ticket") == first
    assert _audit(database_url) == [("dpo", "erase_image", "ticket")]

    await labels.submit(feedback(1, 2))
    again = await eraser.erase_image(sha256(1), "dpo", "ticket")
    assert (first.images, again.images) == (1, 2)
    assert stored().images == stored().objects == 1


async def test_erasing_what_is_not_stored_is_refused_and_leaves_no_trace(
    domain: Domain, database_url: str
) -> None:
    await domain.labels.submit(feedback(2, 3, identity_a="Jane Roe"))
    for subject in ("Jane Ro", "jane roe", "Jane"):
        with pytest.raises(NotFound, match=r"^subject: no stored image"):
            await domain.eraser.erase_subject(subject, "dpo", "ticket")
    with pytest.raises(NotFound, match=f"image {sha256(1)} is not stored"):
        await domain.eraser.erase_image(sha256(1), "dpo", "ticket")
    with pytest.raises(NotFound, match="no erasure"):
        await domain.eraser.find("ticket")
    assert _audit(database_url) == []


async def test_an_object_without_a_row_is_erased_by_its_hash(
    domain: Domain, object_store: ObjectStore
) -> None:
    object_store.put(image_key(sha256(1)), picture(1))
    erasure = await domain.eraser.erase_image(sha256(1), "dpo", "ticket")
    assert erasure.finished_at is not None
    assert not object_store.exists(image_key(sha256(1)))


async def test_a_person_erased_before_is_found_by_the_same_request_only(domain: Domain) -> None:
    await domain.labels.submit(feedback(1, 2, identity_a="Jane Roe"))
    first = await domain.eraser.erase_subject("Jane Roe", "dpo", "ticket")
    assert first.images == 1
    assert await domain.eraser.erase_subject("Jane Roe", "colleague", "ticket") == first
    with pytest.raises(NotFound):
        await domain.eraser.erase_subject("Jane Roe", "dpo", "other")


async def test_a_request_id_stands_for_one_erasure(domain: Domain, database_url: str) -> None:
    eraser = domain.eraser
    await domain.labels.submit(feedback(1, 2, identity_a="Jane Roe", identity_b="John Doe"))
    await domain.labels.submit(feedback(3, 4))
    await eraser.erase_subject("Jane Roe", "dpo", "ticket")
    await eraser.erase_image(sha256(3), "dpo", "second")
    for erase in (
        lambda: eraser.erase_subject("John Doe", "dpo", "ticket"),
        lambda: eraser.erase_subject("nobody", "dpo", "ticket"),
        lambda: eraser.erase_image(sha256(2), "dpo", "ticket"),
        lambda: eraser.erase_image(sha256(4), "dpo", "second"),
        lambda: eraser.erase_subject(sha256(3), "dpo", "second"),
    ):
        with pytest.raises(AlreadyExists, match="was used for another erasure"):
            await erase()
    assert len(_audit(database_url)) == 2
    dump = _dump(database_url)
    assert "Jane Roe" not in dump
    assert "John Doe" in dump


async def test_an_image_of_several_names_is_erased_by_any_of_them(
    domain: Domain, stored: Callable[[], Stored]
) -> None:
    await domain.labels.submit(feedback(1, 2, identity_a="impostor"))
    result = await domain.labels.submit(feedback(1, 3, identity_a="Jane Roe"))
    assert result.named_otherwise == (sha256(1),)
    erasure = await domain.eraser.erase_subject("Jane Roe", "dpo", "ticket")
    assert (erasure.images, erasure.labels) == (1, 2)
    assert stored().images == stored().objects == 2
    with pytest.raises(NotFound):
        await domain.eraser.erase_subject("impostor", "dpo", "other")


def _audit(database_url: str) -> list[tuple[str, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT actor, action, request_id FROM feedback.audit ORDER BY audit_id"
        ).fetchall()


async def _snapshot(labels: LabelService) -> str:
    return (await anext(labels.export("")))[0]


def _publish(objects: ObjectStore, name: str, parent: str | None, snapshot: str | None) -> None:
    manifest = {"model_version": name, "parent_version": parent, "data_snapshot": snapshot}
    objects.put(f"models/{name}/manifest.json", json.dumps(manifest).encode())


async def test_the_versions_that_learned_from_an_image_are_listed_with_their_heirs(
    domain: Domain, object_store: ObjectStore
) -> None:
    labels, eraser = domain.labels, domain.eraser
    await labels.submit(feedback(2, 3))
    _publish(object_store, "before", None, await _snapshot(labels))
    await labels.submit(feedback(1, 2))
    _publish(object_store, "learned", "before", await _snapshot(labels))
    _publish(object_store, "heir", "learned", await _snapshot(labels))
    _publish(object_store, "grandchild", "heir", None)
    _publish(object_store, "other", "before", None)
    erasure = await eraser.erase_image(sha256(1), "dpo", "ticket")
    assert {one.model_version: one.inherited for one in erasure.versions} == {
        "learned": False,
        "heir": False,
        "grandchild": True,
    }


async def test_a_version_is_listed_also_when_the_other_image_of_the_pair_was_erased_before(
    domain: Domain, object_store: ObjectStore
) -> None:
    labels, eraser = domain.labels, domain.eraser
    await labels.submit(feedback(1, 2))
    _publish(object_store, "learned", None, await _snapshot(labels))
    await eraser.erase_image(sha256(2), "dpo", "first")
    erasure = await eraser.erase_image(sha256(1), "dpo", "second")
    assert erasure.labels == 0
    assert [one.model_version for one in erasure.versions] == ["learned"]


async def test_an_erasure_cut_short_is_finished_by_another_process(
    settings: FeedbackSettings,
    domain: Domain,
    object_store: ObjectStore,
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    labels, eraser = domain.labels, domain.eraser
    await labels.submit(feedback(1, 2))
    nowhere = settings.model_copy(update={"s3_endpoint": "127.0.0.1:9", "s3_timeout_s": 0.2})
    lost = ObjectStore(nowhere)
    async with (
        open_label_service(nowhere, vaults(nowhere, lost)) as (_, pool),
        open_erasure_backend(nowhere, lost, vaults(nowhere, lost), pool) as broken,
    ):
        with pytest.raises(Unavailable):
            await broken.eraser.erase_image(sha256(1), "dpo", "ticket")
    # Its rows are deleted, its object is not: it cannot be stored again until the object is.
    assert (stored().images, stored().objects) == (1, 2)
    with pytest.raises(Unavailable, match="is being removed"):
        await labels.submit(feedback(1, 3))
    with pytest.raises(Unavailable, match="ask again"):
        await eraser.erase_image(sha256(1), "dpo", "ticket")
    hasty = settings.model_copy(update={"s3_timeout_s": 0.05})
    new_vault = vaults(hasty, object_store)
    async with open_erasure_backend(hasty, object_store, new_vault, domain.pool) as erasure:
        await asyncio.sleep(0.5)
        await erasure.eraser.finish()
    assert sha256(1) not in str([found.key for found in object_store.list("images/")])
    assert _audit(database_url) == [("dpo", "erase_image", "ticket")]
    await labels.submit(feedback(1, 3))
    assert stored().images == stored().objects == 3


async def test_uploads_erasures_and_sweeps_of_the_same_images_never_leave_half_an_image(
    domain: Domain,
    object_store: ObjectStore,
    database_url: str,
) -> None:
    labels, eraser = domain.labels, domain.eraser
    importer = PoolImporter(domain.pool, domain.vault)
    erased = 0
    going = True

    async def upload(first: int) -> None:
        for turn in range(12):
            a, b = 1 + (first + turn) % 4, 1 + (first + turn + 1) % 4
            await retry_while_unavailable(lambda a=a, b=b: labels.submit(feedback(a, b)))

    async def import_all() -> None:
        for _ in range(12):
            await retry_while_unavailable(lambda: importer.import_images(_pool_images()))

    async def erase() -> None:
        nonlocal erased
        for turn in range(20):
            with suppress(NotFound):
                done = await eraser.erase_image(sha256(1 + turn % 4), "dpo", f"ticket-{turn}")
                erased += done.images
            await asyncio.sleep(0.02)

    async def keep_sweeping() -> None:
        while going:
            await sweep_orphans(object_store, eraser, timedelta(0), timedelta(hours=1))

    async def work() -> None:
        nonlocal going
        await asyncio.gather(*[upload(number) for number in range(6)], import_all(), erase())
        going = False

    # Together, so that a sweep that fails ends the test with its error.
    await asyncio.gather(keep_sweeping(), work())
    assert erased > 4
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT encode(sha256, 'hex') FROM feedback.images").fetchall()
    objects = {found.key for found in object_store.list("images/")}
    assert {image_key(row[0]) for row in rows} == objects


def _pool_images() -> BudgetedRequests[PoolImage]:
    async def images() -> AsyncIterator[PoolImage]:
        for number in range(1, 5):
            yield PoolImage(FaceImage(picture(number), on_no_face="mark"), "somebody")

    return BudgetedRequests(images(), image_bytes, ByteBudget(2**30))


async def test_an_import_whose_objects_were_swept_before_their_rows_begins_anew(
    domain: Domain,
    object_store: ObjectStore,
    database_url: str,
    stored: Callable[[], Stored],
) -> None:
    with psycopg.connect(database_url) as blocker:
        # The import has written its objects and waits for this lock.
        blocker.execute(erasure_queries.LOCK_REMOVALS.encode())
        importer = PoolImporter(domain.pool, domain.vault)
        importing = asyncio.create_task(importer.import_images(_pool_images()))
        await asyncio.to_thread(wait_until, lambda: stored().objects == 4, 5)
        for found in list(object_store.list("images/")):
            object_store.remove(found.key)
        blocker.execute("UPDATE feedback.removal_epoch SET epoch = epoch + 1")
    assert (await importing).created == 4
    assert stored().images == stored().objects == 4


async def test_the_contract_erases_and_shows_the_trail(stub: Stub) -> None:
    await stub.SubmitFeedback(request(1, 2))
    answer = await stub.DeleteImage(
        pb.DeleteImageRequest(sha256=sha256(1), requested_by="dpo", request_id="ticket")
    )
    assert (answer.erasure.images, answer.erasure.labels) == (1, 1)
    assert answer.erasure.HasField("finished_at")
    image = pb.ImageRef(sha256=sha256(2), identity="J\N{LATIN SMALL LETTER O WITH ACUTE}n")
    await stub.SubmitFeedback(request(2, 3, image_a=image))
    answer = await stub.DeleteSubject(
        pb.DeleteSubjectRequest(subject=" Jo\u0301n", requested_by="dpo", request_id="second")
    )
    assert answer.erasure.images == 1
    first = await stub.ListAudit(pb.ListAuditRequest(page_size=1))
    second = await stub.ListAudit(
        pb.ListAuditRequest(page_size=1, page_token=first.next_page_token)
    )
    entries = [*first.entries, *second.entries]
    assert [(one.actor, one.action, one.request_id) for one in entries] == [
        ("dpo", "erase_subject", "second"),
        ("dpo", "erase_image", "ticket"),
    ]
    assert json.loads(entries[1].detail)["labels"] == 1
    assert not second.next_page_token


async def test_whatever_refers_to_an_image_goes_with_it(domain: Domain, database_url: str) -> None:
    assert domain
    with psycopg.connect(database_url) as connection:
        kept = connection.execute(
            "SELECT conrelid::regclass::text FROM pg_constraint WHERE contype = 'f'"
            " AND confrelid IN ('feedback.images'::regclass, 'feedback.pairs'::regclass)"
            " AND confdeltype <> 'c'"
        ).fetchall()
    # Rows of these are deleted explicitly, to be counted.
    assert {table for (table,) in kept} == {
        "feedback.pairs",
        "feedback.labels",
        "feedback.pair_consensus",
    }
