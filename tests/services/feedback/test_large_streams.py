"""The memory of the service while streams send large pictures."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from shared.rpc.channel import open_channel
from shared.settings import ObjectStoreSettings
from tests.services.feedback.support.helpers import marked, picture
from tests.support.memory import MemoryWatch, tree_bytes
from tests.support.processes import ServiceProcess, service_environment

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
_LABELS = 60
_PICTURE_BYTES = 10 * 10**6
_LIMIT = 10**9


def _large(number: int) -> image_pb2.Image:
    """A small picture and much behind it, which decoders ignore."""
    data = picture(number)
    return marked(data + bytes(_PICTURE_BYTES - len(data)))


async def _labels(stream: int) -> AsyncIterator[pb.SubmitFeedbackStreamRequest]:
    for number in range(_LABELS):
        yield pb.SubmitFeedbackStreamRequest(
            feedback=pb.SubmitFeedbackRequest(
                image_a=pb.ImageRef(image=_large(2 * number)),
                image_b=pb.ImageRef(image=_large(2 * number + 1)),
                label=pb.LABEL_SAME,
                annotator=f"annotator-{stream}",
                idempotency_key=f"{stream}-{number}",
            )
        )


async def _images() -> AsyncIterator[pb.ImportImagesRequest]:
    for number in range(2 * _LABELS):
        yield pb.ImportImagesRequest(image=_large(number))


@pytest.mark.parametrize("streams", [1, 4])
async def test_streams_of_large_pictures_stay_within_the_limit(
    database_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path, streams: int
) -> None:
    environment = service_environment(database_url, object_store_settings)
    with ServiceProcess("services.feedback", tmp_path, environment) as process:
        async with open_channel(await asyncio.to_thread(process.start)) as channel:
            stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
            await stub.GetStats(pb.GetStatsRequest(), wait_for_ready=True, timeout=60)
            idle = tree_bytes(process.pid)

            async def label(stream: int) -> int:
                answers = stub.SubmitFeedbackStream(_labels(stream), timeout=300)
                return sum([len(answer.results) async for answer in answers])

            with MemoryWatch(process.pid) as labelling:
                assert await asyncio.gather(*map(label, range(streams))) == [_LABELS] * streams
            with MemoryWatch(process.pid) as importing:
                imports = [stub.ImportImages(_images(), timeout=300) for _ in range(streams)]
                for answer in await asyncio.gather(*imports):
                    assert answer.created + answer.known + answer.rejected == 2 * _LABELS
            print(  # noqa: T201
                f"{streams} streams: idle {idle / 1e6:.0f} MB, labels {labelling.most / 1e6:.0f}"
                f" MB, images {importing.most / 1e6:.0f} MB"
            )
    assert max(labelling.most, importing.most) < _LIMIT
