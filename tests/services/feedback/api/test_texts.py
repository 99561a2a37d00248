"""Tests of the text rules of the contract, for every text field of every request."""

from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from services.feedback.settings import FeedbackSettings
from tests.services.feedback.support.helpers import (
    NOTHING,
    Stored,
    channel_on,
    marked,
    picture,
    request,
)
from tests.support.texts import NOT_UTF8, BadText, bad_texts, refusal

BAD = bad_texts(pb.DESCRIPTOR.services_by_name["FeedbackService"])


def answered(method: str) -> list[BadText]:
    """Bad texts of a stream that are answered, and do not end it."""
    return [bad for bad in BAD if bad.method.name == method and bad.what != NOT_UTF8]


@pytest.fixture
async def channel(settings: FeedbackSettings) -> AsyncIterator[grpc.aio.Channel]:
    async with channel_on(settings) as channel:
        yield channel


async def test_a_bad_text_in_any_field_is_refused_by_name_and_leaves_nothing(
    channel: grpc.aio.Channel, stored: Callable[[], Stored]
) -> None:
    apart = [*answered("SubmitFeedbackStream"), *answered("ImportImages")]
    ending = [bad for bad in BAD if bad not in apart]
    found = {str(bad): await refusal(channel, bad) for bad in ending}
    assert found == {str(bad): (grpc.StatusCode.INVALID_ARGUMENT, bad.field) for bad in ending}
    assert stored() == NOTHING


async def test_a_bad_text_in_a_label_of_a_stream_refuses_that_label_alone(
    channel: grpc.aio.Channel, stored: Callable[[], Stored]
) -> None:
    stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
    bad = answered("SubmitFeedbackStream")
    requests = [pb.SubmitFeedbackStreamRequest.FromString(one.data) for one in bad]
    requests.append(pb.SubmitFeedbackStreamRequest(feedback=request(1, 2, idempotency_key="good")))
    results = [
        result
        async for part in stub.SubmitFeedbackStream(iter(requests), timeout=20)
        for result in part.results
    ]
    assert [one.idempotency_key for one in results if one.HasField("stored")] == ["good"]
    refused = sorted((r.idempotency_key, r.refused.field) for r in results if r.HasField("refused"))
    assert refused == sorted(
        (one.feedback.idempotency_key, how.field.removeprefix("feedback."))
        for one, how in zip(requests, bad, strict=False)
    )
    codes = {one.refused.code for one in results if one.HasField("refused")}
    assert codes == {grpc.StatusCode.INVALID_ARGUMENT.value[0]}
    assert stored().labels == 1


async def test_a_bad_text_of_an_imported_image_rejects_that_image_alone(
    channel: grpc.aio.Channel, stored: Callable[[], Stored]
) -> None:
    stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
    bad = answered("ImportImages")
    requests = [pb.ImportImagesRequest.FromString(one.data) for one in bad]
    for number, one in enumerate(requests):
        one.image.CopyFrom(marked(picture(number)))
    requests.append(
        pb.ImportImagesRequest(image=image_pb2.Image(data=picture(9), alignment=9)),
    )
    requests.append(pb.ImportImagesRequest(image=marked(picture(9)), identity="ann"))
    answer = await stub.ImportImages(iter(requests), timeout=20)
    assert (answer.created, answer.rejected) == (1, len(requests) - 1)
    assert [one.why.partition(":")[0] for one in answer.rejections] == [
        *[one.field for one in bad],
        "image.alignment",
    ]
    assert stored().images == 1
