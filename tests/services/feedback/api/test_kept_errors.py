"""Refused pictures of labels and imports leave nothing in memory."""

import asyncio
from collections.abc import Iterator

from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from services.feedback.labels.types import Feedback
from services.feedback.pool.importer import PoolImage
from shared.model.image.face import FaceImage
from tests.services.feedback.support.helpers import request
from tests.support.bad_pictures import BAD_PICTURES
from tests.support.referents import left_behind

Stub = feedback_pb2_grpc.FeedbackServiceStub
KINDS = (
    *(pb.SubmitFeedbackRequest, pb.SubmitFeedbackStreamRequest, pb.ImportImagesRequest),
    *(FaceImage, Feedback, PoolImage),
)
# The threads of the pool let go of their pictures a moment after the answer.
_MOMENT_S = 0.2


def _images() -> Iterator[image_pb2.Image]:
    for data, _ in BAD_PICTURES.values():
        yield image_pb2.Image(data=data, alignment=image_pb2.ALIGNMENT_ALIGNED)
    yield image_pb2.Image(data=bytes(5000), alignment=99)


async def test_of_an_import(stub: Stub) -> None:
    with left_behind(*KINDS) as left:
        requests = (pb.ImportImagesRequest(image=image) for image in _images())
        answer = await stub.ImportImages(requests, timeout=20)
        assert answer.rejected == len(BAD_PICTURES) + 1
        await asyncio.sleep(_MOMENT_S)
        assert not left()


async def test_of_a_stream_of_labels(stub: Stub) -> None:
    def requests() -> Iterator[pb.SubmitFeedbackStreamRequest]:
        for image in _images():
            label = request(1, image_b=pb.ImageRef(image=image))
            yield pb.SubmitFeedbackStreamRequest(feedback=label)

    with left_behind(*KINDS) as left:
        parts = [part async for part in stub.SubmitFeedbackStream(requests(), timeout=20)]
        results = [result for part in parts for result in part.results]
        assert len(results) == len(BAD_PICTURES) + 1
        assert all(result.HasField("refused") for result in results)
        await asyncio.sleep(_MOMENT_S)
        assert not left()
