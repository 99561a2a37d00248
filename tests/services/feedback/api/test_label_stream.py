"""Tests of streamed labels: answered as they are stored, each on its own."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.settings import FeedbackSettings
from tests.services.feedback.support.helpers import Stored, known, request, stub_on

Stub = feedback_pb2_grpc.FeedbackServiceStub


def _part(label: pb.SubmitFeedbackRequest) -> pb.SubmitFeedbackStreamRequest:
    return pb.SubmitFeedbackStreamRequest(feedback=label)


async def _send_all(stub: Stub, labels: list[pb.SubmitFeedbackRequest]) -> list[pb.FeedbackResult]:
    async def requests() -> AsyncIterator[pb.SubmitFeedbackStreamRequest]:
        for label in labels:
            yield _part(label)

    parts = [part async for part in stub.SubmitFeedbackStream(requests())]
    assert all(part.results for part in parts)
    return [result for part in parts for result in part.results]


async def test_every_label_of_a_stream_is_stored_once_and_answered_by_its_key(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    await stub.SubmitFeedback(request(1, 2))
    labels = [
        request(image_a=known(1), image_b=known(2), annotator=f"ann-{n}", idempotency_key=f"k-{n}")
        for n in range(2000)
    ]
    labels += [request(1, n, idempotency_key=f"sent-{n}") for n in range(3, 20)]
    results = await _send_all(stub, [*labels, *labels[:50]])
    assert len(results) == len(labels) + 50
    assert {one.idempotency_key for one in results} == {one.idempotency_key for one in labels}
    assert sum(one.stored.created for one in results) == len(labels)
    counts = stored()
    assert (counts.labels, counts.images, counts.objects) == (1 + len(labels), 19, 19)


async def test_a_refused_label_names_its_field_and_the_others_are_stored(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    bad = {
        "blank": (request(1, 2, annotator=" "), grpc.StatusCode.INVALID_ARGUMENT, "annotator"),
        "no label": (request(1, 2, label=0), grpc.StatusCode.INVALID_ARGUMENT, "label"),
        "unknown": (request(1, image_b=known(9)), grpc.StatusCode.NOT_FOUND, ""),
    }
    for key, (label, _, _) in bad.items():
        label.idempotency_key = key
    good = [request(1, n) for n in range(2, 5)]
    results = await _send_all(stub, [good[0], *(label for label, _, _ in bad.values()), *good[1:]])
    refused = {one.idempotency_key: one.refused for one in results if one.HasField("refused")}
    assert refused.keys() == bad.keys()
    for key, (_, code, field) in bad.items():
        assert (refused[key].code, refused[key].field) == (code.value[0], field)
        assert refused[key].message
    assert stored().labels == 3


async def test_a_label_is_answered_before_the_stream_ends(stub: Stub) -> None:
    stream = stub.SubmitFeedbackStream()
    for number in range(2, 5):
        label = request(1, number)
        await stream.write(_part(label))
        part = await asyncio.wait_for(stream.read(), 60)
        (result,) = part.results
        assert (result.idempotency_key, result.stored.created) == (label.idempotency_key, True)
    await stream.done_writing()
    assert await stream.read() is grpc.aio.EOF


async def test_a_stream_that_was_cut_counts_once_when_it_is_sent_again(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    labels = [request(1, n % 7 + 2, annotator=f"ann-{n}") for n in range(300)]
    stream = stub.SubmitFeedbackStream()
    for label in labels:
        await stream.write(_part(label))
    await stream.read()
    stream.cancel()
    results = await _send_all(stub, labels)
    assert len(results) == 300
    assert all(one.HasField("stored") for one in results)
    assert stored().labels == 300


async def test_streams_wait_where_single_calls_are_refused(
    settings: FeedbackSettings, stored: Callable[[], Stored]
) -> None:
    tight = settings.model_copy(update={"feedback_queued_labels": 3, "feedback_batch_labels": 2})
    async with stub_on(tight) as stub:
        await stub.SubmitFeedback(request(1, 2))
        labels = [
            request(image_a=known(1), image_b=known(2), annotator=f"ann-{n}") for n in range(20)
        ]
        results = await _send_all(stub, labels)
    assert all(one.HasField("stored") for one in results)
    assert stored().labels == 21
