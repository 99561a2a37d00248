"""Labels in a stream are answered as they are stored, each for itself."""

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.settings import FeedbackSettings
from shared.rpc.streams import responses_as_completed
from tests.services.feedback.helpers import Stored, known, request, stub_on
from tests.support.waiting import let_others_run

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


async def test_no_more_is_read_than_may_be_unanswered() -> None:
    read = 0
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        nonlocal read
        for read in range(1, 21):
            yield read

    async def answer(number: int) -> int:
        await gate.wait()
        return number

    answers = responses_as_completed(requests(), answer, max_in_flight=4)
    first = asyncio.ensure_future(anext(answers))
    await let_others_run()
    # One more is read, and waits for a slot.
    assert read == 5
    gate.set()
    everything = [*await first, *[one async for part in answers for one in part]]
    assert sorted(everything) == list(range(1, 21))


async def test_a_stream_that_breaks_gives_its_unanswered_labels_up() -> None:
    given_up = 0

    async def requests() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ConnectionError("cut")

    async def answer(number: int) -> int:
        nonlocal given_up
        if number == 1:
            return number
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up += 1
            raise
        return number

    answers = responses_as_completed(requests(), answer, max_in_flight=4)
    assert await anext(answers) == [1]
    await answers.aclose()
    await asyncio.sleep(0)
    assert given_up == 1


async def test_what_breaks_a_stream_reaches_the_caller() -> None:
    async def requests() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("cut")

    async def answer(number: int) -> int:
        return number

    with pytest.raises(ConnectionError, match="cut"):
        async for answers in responses_as_completed(requests(), answer, max_in_flight=4):
            assert answers == [1]
