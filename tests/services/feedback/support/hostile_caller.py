"""A hostile caller in a process of its own: ``python -m … ADDRESS``.

It streams labels and imports images without an end: pictures of 50 megapixels, pictures above the
limit, files of many megabytes and files that are no pictures.
"""

import asyncio
import contextlib
import itertools
import sys
from collections.abc import AsyncIterator, Iterator
from functools import cache
from typing import Final

import grpc
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc, image_pb2

from shared.settings import ImageLimits
from tests.services.feedback.support.helpers import marked, picture
from tests.shared.decoding.hostile import flat_png, png_above, run_length_bmp, slow_jpeg

_LABELS: Final = 60
_LARGE_BYTES: Final = 8 * 10**6


@cache
def _files() -> tuple[bytes, ...]:
    return (
        flat_png(8160, 6144),
        png_above(ImageLimits().image_max_pixels),
        picture(1).ljust(_LARGE_BYTES, b"\0"),
        slow_jpeg(7000, 7000, 10),
        run_length_bmp(7000, 7000),
        b"no picture".ljust(_LARGE_BYTES, b" "),
    )


def _images() -> Iterator[image_pb2.Image]:
    """Images that are never the same; what follows a picture is ignored."""
    for number, data in enumerate(itertools.cycle(_files())):
        yield marked(data + number.to_bytes(4, "big"))


async def _labels(stream: int) -> AsyncIterator[pb.SubmitFeedbackStreamRequest]:
    images = _images()
    for number in range(_LABELS):
        a, b = (pb.ImageRef(image=next(images)) for _ in range(2))
        label = pb.SubmitFeedbackRequest(
            image_a=a,
            image_b=b,
            label=pb.LABEL_SAME,
            annotator=f"annotator-{stream}",
            idempotency_key=f"{stream}-{number}",
        )
        yield pb.SubmitFeedbackStreamRequest(feedback=label)


async def _imports() -> AsyncIterator[pb.ImportImagesRequest]:
    for image in itertools.islice(_images(), _LABELS):
        yield pb.ImportImagesRequest(image=image)


async def attack(address: str) -> None:
    """Stream labels and import images until cancelled."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)

        async def label(stream: int) -> None:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    async for _ in stub.SubmitFeedbackStream(_labels(stream)):
                        pass

        async def add() -> None:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stub.ImportImages(_imports())

        await asyncio.gather(label(1), label(2), add(), add())


if __name__ == "__main__":
    asyncio.run(attack(sys.argv[1]))
