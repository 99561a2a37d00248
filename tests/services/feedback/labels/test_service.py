"""Tests of the label service: idempotency, concurrency, superseded labels."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import psycopg
import pytest
from magface.v1 import feedback_pb2_grpc

from services.feedback.labels.batch_writer import BatchWriter
from services.feedback.labels.label_log import LabelLog
from services.feedback.labels.service import LabelService
from services.feedback.labels.types import Label, Submission
from services.feedback.server import open_label_service, prepare_stores
from services.feedback.settings import FeedbackSettings
from shared.errors import AlreadyExists, MagFaceError, NotFound, Unavailable
from shared.storage.objects import ObjectStore
from shared.storage.postgres import open_pool
from tests.services.feedback.support.helpers import Stored, feedback, request, sha256, vaults
from tests.support.postgres import blocked_sessions
from tests.support.waiting import until, wait_until

Stub = feedback_pb2_grpc.FeedbackServiceStub


@pytest.fixture
async def replicas(
    settings: FeedbackSettings, object_store: ObjectStore
) -> AsyncIterator[list[LabelService]]:
    """Three label services on one database, as in three processes."""
    await prepare_stores(settings, object_store)
    async with AsyncExitStack() as stack:
        yield [
            (
                await stack.enter_async_context(
                    open_label_service(settings, vaults(settings, object_store))
                )
            )[0]
            for _ in range(3)
        ]


async def test_a_key_sent_a_hundred_times_at_once_is_one_label(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    same = request(1, 2, idempotency_key="once")
    answers = await asyncio.gather(*[stub.SubmitFeedback(same) for _ in range(100)])
    assert len({(answer.label_id, answer.pair_id) for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert stored() == Stored(2, 1, 1, 1, 1, objects=2)


async def test_a_key_sent_to_several_replicas_is_one_label(
    replicas: list[LabelService], stored: Callable[[], Stored]
) -> None:
    same = feedback(1, 2, idempotency_key="once")
    receipts = await asyncio.gather(*[replicas[n % 3].submit(same) for n in range(99)])
    assert len({receipt.label_id for receipt in receipts}) == 1
    assert sum(receipt.created for receipt in receipts) == 1
    assert stored() == Stored(2, 1, 1, 1, 1, objects=2)


async def test_replicas_lose_nothing_when_they_write_the_same_pairs_at_once(
    replicas: list[LabelService], stored: Callable[[], Stored]
) -> None:
    await replicas[0].submit(feedback(1, 2))
    for number in range(3, 7):
        await replicas[0].submit(feedback(1, number))
    hashes = [sha256(number) for number in range(1, 7)]
    labels = [
        feedback(image_a=a, image_b=b, annotator=f"ann-{n % 7}")
        for n in range(20)
        for a in hashes
        for b in hashes
        if a < b
    ]
    receipts = await asyncio.gather(
        *[replicas[n % 3].submit(label) for n, label in enumerate(labels)]
    )
    assert len({receipt.label_id for receipt in receipts}) == len(labels) == 300
    stats = await replicas[1].stats()
    assert (stats.labels, stats.pairs, stats.pairs_same) == (305, 15, 15)
    counts = stored()
    assert (counts.labels, counts.pairs, counts.images) == (305, 15, 6)


@pytest.mark.parametrize(
    "change",
    [{"label": Label.DIFFERENT}, {"annotator": "bob"}, {"b": 3}, {"sureness": 0.5}],
    ids=lambda change: next(iter(change)),
)
async def test_a_key_used_for_something_else_is_refused(
    store: LabelService, stored: Callable[[], Stored], change: dict[str, object]
) -> None:
    await store.submit(feedback(1, 2, idempotency_key="taken"))
    before = stored()
    with pytest.raises(AlreadyExists, match="idempotency_key: 'taken'"):
        await store.submit(feedback(**({"idempotency_key": "taken"} | change)))
    assert stored() == before


async def test_one_of_two_contents_under_one_key_wins_when_they_race(
    replicas: list[LabelService], stored: Callable[[], Stored]
) -> None:
    for number in (1, 3):
        await replicas[0].submit(feedback(number, number + 1))
    for attempt in range(10):
        key = f"raced-{attempt}"
        rivals = [
            feedback(
                image_a=sha256(1),
                image_b=sha256(2 + n % 3),
                annotator=f"ann-{attempt}",
                idempotency_key=key,
            )
            for n in range(9)
        ]
        results = await asyncio.gather(
            *[replicas[n % 3].submit(rival) for n, rival in enumerate(rivals)],
            return_exceptions=True,
        )
        receipts = [result for result in results if not isinstance(result, BaseException)]
        assert len({receipt.label_id for receipt in receipts}) == 1
        assert len(receipts) == 3
        assert all(isinstance(one, AlreadyExists) for one in results if one not in receipts)
    counts = stored()
    assert counts.labels == 12
    assert counts.pair_consensus == counts.pairs


async def test_a_label_whose_answer_was_lost_counts_once(
    store: LabelService, stored: Callable[[], Stored]
) -> None:
    label = feedback(1, 2, idempotency_key="lost")
    asked = asyncio.create_task(store.submit(label))
    await asyncio.to_thread(wait_until, lambda: stored().labels == 1, 5)
    asked.cancel()
    again = await store.submit(label)
    assert not again.created
    assert stored().labels == 1


async def test_a_later_label_supersedes_and_both_stay(
    store: LabelService, stored: Callable[[], Stored]
) -> None:
    for label in (Label.SAME, Label.DIFFERENT):
        await store.submit(feedback(1, 2, label=label))
    (pair,), _ = await store.list_pairs(None, 0, "")
    assert (pair.consensus, pair.votes_same, pair.votes_different) == (Label.DIFFERENT, 0, 1)
    stats = await store.stats()
    assert (stats.labels, stats.pairs_same, stats.pairs_different) == (2, 0, 1)
    assert stored().labels == 2


async def test_stats_follow_the_consensus_of_each_pair(store: LabelService) -> None:
    await store.submit(feedback(1, 2, label=Label.SAME))
    await store.submit(feedback(1, 3, label=Label.DIFFERENT))
    await store.submit(feedback(1, 4, label=Label.UNSURE))
    await store.submit(feedback(1, 2, label=Label.DIFFERENT, annotator="bob"))
    stats = await store.stats()
    assert (stats.images, stats.labels, stats.annotators) == (4, 4, 2)
    assert (stats.pairs_same, stats.pairs_different, stats.pairs_undecided) == (0, 1, 2)


async def test_facts_cannot_be_changed(store: LabelService, database_url: str) -> None:
    await store.submit(feedback(1, 2))
    changes = {
        "labels": "label = 'different'",
        "pairs": "pair_id = DEFAULT",
        "images": "stored_at = now()",
    }
    for table, change in changes.items():
        with (
            psycopg.connect(database_url) as connection,
            pytest.raises(psycopg.errors.RaiseException, match=f"{table} holds facts"),
        ):
            connection.execute(f"UPDATE feedback.{table} SET {change}".encode())  # noqa: S608


async def test_facts_go_by_erasure_only_and_the_audit_never(
    store: LabelService, database_url: str
) -> None:
    await store.submit(feedback(1, 2))
    refusals = {
        "DELETE FROM feedback.labels": "only an erasure",
        "DELETE FROM feedback.pairs": "only an erasure",
        "TRUNCATE feedback.images CASCADE": "only an erasure",
        "SET feedback.erasing = 'on'; DELETE FROM feedback.audit": "audit holds facts",
        "UPDATE feedback.audit SET actor = 'nobody'": "audit holds facts",
    }
    for statement, why in refusals.items():
        with (
            psycopg.connect(database_url) as connection,
            pytest.raises(psycopg.errors.RaiseException, match=why),
        ):
            connection.execute(statement.encode())


async def test_a_label_that_cannot_be_stored_takes_no_other_with_it(
    settings: FeedbackSettings, store: LabelService, stored: Callable[[], Stored]
) -> None:
    await store.submit(feedback(1, 2))
    pool = await open_pool(settings)
    good = [
        Submission(sha256(1), sha256(2), Label.SAME, f"ann-{n}", f"good-{n}") for n in range(20)
    ]
    # Validation is bypassed here; the database refuses an empty annotator.
    poison = Submission(sha256(1), sha256(2), Label.SAME, "", "poison")
    unknown = Submission(sha256(1), sha256(9), Label.SAME, "ann", "unknown")
    async with BatchWriter(LabelLog(pool, 1), batch=50, queued=50, wait_s=5) as writer:
        results = await asyncio.gather(
            *[writer.submit(one) for one in (*good[:10], poison, unknown, *good[10:])],
            return_exceptions=True,
        )
    await pool.close()
    refused = [result for result in results if isinstance(result, BaseException)]
    assert [type(error) for error in refused] == [psycopg.errors.CheckViolation, NotFound]
    assert stored().labels == 21


async def test_more_labels_than_may_wait_are_refused_and_the_rest_stored(
    settings: FeedbackSettings, store: LabelService, stored: Callable[[], Stored]
) -> None:
    await store.submit(feedback(1, 2))
    pool = await open_pool(settings)
    labels = [Submission(sha256(1), sha256(2), Label.SAME, f"a-{n}", f"k-{n}") for n in range(40)]
    async with BatchWriter(LabelLog(pool, 1), batch=5, queued=10, wait_s=5) as writer:
        results = await asyncio.gather(*map(writer.submit, labels), return_exceptions=True)
    await pool.close()
    refused = [result for result in results if isinstance(result, MagFaceError)]
    assert len(refused) == 30
    assert stored().labels == 1 + 10


async def test_labels_that_wait_too_long_are_given_up_and_not_stored_later(
    settings: FeedbackSettings,
    store: LabelService,
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    await store.submit(feedback(1, 2))
    pool = await open_pool(settings)
    labels = [Submission(sha256(1), sha256(2), Label.SAME, f"a-{n}", f"k-{n}") for n in range(20)]
    async with BatchWriter(LabelLog(pool, 1), batch=1, queued=50, wait_s=0.3) as writer:
        with psycopg.connect(database_url) as blocker:
            blocker.execute("LOCK TABLE feedback.labels IN SHARE MODE")
            started = time.monotonic()
            results = await asyncio.gather(*map(writer.submit, labels), return_exceptions=True)
            assert time.monotonic() - started < 20
            # The label that was being stored when its caller gave up is not stored either.
            await until(lambda: blocked_sessions(database_url) == 0)
        assert {type(result) for result in results} == {Unavailable}
        await writer.submit(labels[-1])
    await pool.close()
    assert stored().labels == 2
