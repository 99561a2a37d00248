"""Tests of tombstones: a late retry does not bring back what was erased on request."""

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from functools import partial

import grpc
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1.feedback_pb2_grpc import FeedbackServiceStub

from services.feedback.server import open_erasure_backend, open_label_service
from services.feedback.settings import FeedbackSettings
from shared.errors import PreconditionFailed
from shared.storage.objects import ObjectStore
from tests.services.feedback.support.helpers import (
    Stored,
    feedback,
    known,
    marked,
    picture,
    request,
    sha256,
    vaults,
)

Stub = FeedbackServiceStub


def _label() -> pb.SubmitFeedbackRequest:
    return request(1, 2, idempotency_key="label-1")


@pytest.fixture
async def erased(stub: Stub) -> Stub:
    """A service from which image 1 and the label of it and image 2 were erased."""
    await stub.SubmitFeedback(_label())
    erase = pb.DeleteImageRequest(sha256=sha256(1), requested_by="dpo", request_id="ticket")
    await stub.DeleteImage(erase)
    return stub


def _images(*numbers: int) -> AsyncIterator[pb.ImportImagesRequest]:
    async def requests() -> AsyncIterator[pb.ImportImagesRequest]:
        for number in numbers:
            image = marked(picture(number))
            yield pb.ImportImagesRequest(image=image, identity="Jane Roe")

    return requests()


@pytest.mark.parametrize(
    ("late", "names"),
    [
        (_label, "the label 'label-1'"),
        (partial(request, 3, 4, idempotency_key="label-1"), "the label 'label-1'"),
        (partial(request, 1, 3), f"image_a: image {sha256(1)}"),
        (partial(request, 3, 1), f"image_b: image {sha256(1)}"),
        (lambda: request(3, image_b=known(1)), f"image_b: image {sha256(1)}"),
    ],
    ids=["its retry", "its key", "its image", "its image second", "its hash"],
)
async def test_a_label_of_what_was_erased_is_refused(
    erased: Stub,
    stored: Callable[[], Stored],
    late: Callable[[], pb.SubmitFeedbackRequest],
    names: str,
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await erased.SubmitFeedback(late())
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert names in str(refused.value.details())
    assert "MAGFACE_FEEDBACK_TOMBSTONE_DAYS" in str(refused.value.details())
    assert (stored().images, stored().labels, stored().objects) == (1, 0, 1)


async def test_a_stream_sent_again_stores_the_labels_of_others_only(
    erased: Stub, stored: Callable[[], Stored]
) -> None:
    labels = [pb.SubmitFeedbackStreamRequest(feedback=one) for one in (_label(), request(2, 3))]
    results = [
        result
        async for part in erased.SubmitFeedbackStream(iter(labels))
        for result in part.results
    ]
    codes = {one.idempotency_key: one.refused.code for one in results}
    assert codes.pop("label-1") == grpc.StatusCode.FAILED_PRECONDITION.value[0]
    assert list(codes.values()) == [0]
    assert stored().labels == 1


async def test_an_import_sent_again_rejects_the_image_and_stores_the_others(
    erased: Stub, database_url: str
) -> None:
    answer = await erased.ImportImages(_images(1, 2, 3, 1))
    assert (answer.created, answer.known, answer.rejected) == (1, 1, 2)
    assert [one.place for one in answer.rejections] == [0, 3]
    assert "was erased on request" in answer.rejections[0].why
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT sha256 FROM feedback.image_subjects").fetchall()
    assert {row[0].hex() for row in rows} == {sha256(2), sha256(3)}


async def test_a_tombstone_tells_neither_image_nor_key(erased: Stub, database_url: str) -> None:
    assert erased
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT t::text FROM feedback.tombstones AS t").fetchall()
    assert len(rows) == 2
    assert not any(sha256(1) in row[0] or "label-1" in row[0] for row in rows)


async def test_tombstones_are_kept_as_long_as_the_operator_says(
    erased: Stub, settings: FeedbackSettings, object_store: ObjectStore, database_url: str
) -> None:
    new_vault = vaults(settings, object_store)
    async with (
        open_label_service(settings, new_vault) as (labels, pool),
        open_erasure_backend(settings, object_store, new_vault, pool) as backend,
    ):
        _let_pass(database_url, days=29)
        await backend.eraser.forget_tombstones()
        with pytest.raises(PreconditionFailed):
            await labels.submit(feedback(1, 3))
        _let_pass(database_url, days=2)
        await backend.eraser.forget_tombstones()
        await labels.submit(feedback(1, 3))
    again = await erased.SubmitFeedback(_label())
    assert again.created


def _let_pass(database_url: str, days: int) -> None:
    with psycopg.connect(database_url) as connection:
        query = "UPDATE feedback.tombstones SET erased_at = erased_at - %s * interval '1 day'"
        connection.execute(query, [days])


async def test_retention_leaves_no_tombstones(
    stub: Stub, settings: FeedbackSettings, object_store: ObjectStore
) -> None:
    await stub.SubmitFeedback(_label())
    new_vault = vaults(settings, object_store)
    async with (
        open_label_service(settings, new_vault) as (_, pool),
        open_erasure_backend(settings, object_store, new_vault, pool) as backend,
    ):
        assert await backend.eraser.erase_older(datetime.now(UTC)) == 2
    assert (await stub.SubmitFeedback(_label())).created
