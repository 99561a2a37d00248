"""A picture that cannot be read refuses its own label or import, and no other."""

from collections.abc import Callable, Iterator

import grpc
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from tests.services.feedback.support.helpers import Stored, marked, picture, request
from tests.support.bad_pictures import BAD_PICTURES

Stub = feedback_pb2_grpc.FeedbackServiceStub
CASES = [
    (name, image_pb2.Image(data=data, alignment=way), words)
    for name, (data, words) in BAD_PICTURES.items()
    for way in (image_pb2.ALIGNMENT_ALIGNED, image_pb2.ALIGNMENT_DETECT)
]


async def test_a_label_with_one_is_refused_by_name(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    for name, image, words in CASES:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.SubmitFeedback(request(1, image_b=pb.ImageRef(image=image)), timeout=20)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, name
        assert refused.value.details().startswith("image_b.image.data: "), name
        assert words in refused.value.details(), name
    assert stored().labels == 0


async def test_in_a_stream_it_is_refused_and_the_others_are_stored(
    stub: Stub, stored: Callable[[], Stored]
) -> None:
    labels, expected = [], {}
    for number, (_, image, words) in enumerate(CASES, 2):
        bad = request(1, image_b=pb.ImageRef(image=image))
        expected[bad.idempotency_key] = words
        labels += [bad, request(1, number)]
    parts = (pb.SubmitFeedbackStreamRequest(feedback=label) for label in labels)
    stream = stub.SubmitFeedbackStream(parts, timeout=60)
    results = {r.idempotency_key: r async for part in stream for r in part.results}
    assert results.keys() == {label.idempotency_key for label in labels}
    for key, words in expected.items():
        assert results[key].refused.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
        assert results[key].refused.field == "image_b.image.data"
        assert words in results[key].refused.message
    assert stored().labels == len(CASES)


async def test_in_an_import_it_is_rejected_and_the_others_are_stored(stub: Stub) -> None:
    def requests() -> Iterator[pb.ImportImagesRequest]:
        for number, (_, image, _) in enumerate(CASES):
            yield pb.ImportImagesRequest(image=image)
            yield pb.ImportImagesRequest(image=marked(picture(number)))

    answer = await stub.ImportImages(requests(), timeout=60)
    assert (answer.created, answer.rejected) == (len(CASES), len(CASES))
    rejections = sorted(answer.rejections, key=lambda one: one.place)
    for place, (rejection, (_, _, words)) in enumerate(zip(rejections, CASES, strict=True)):
        assert rejection.place == 2 * place
        assert rejection.why.startswith("image.data: ")
        assert words in rejection.why
