"""A hostile caller in a process of its own: ``python -m … ADDRESS TIMEOUT_S FILE…``.

Each file has an EmbedRequest, which is sent again as soon as it is answered, without an end.
"""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import grpc
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from shared.settings import ImageLimits
from tests.services.embedder.faces import crops, image_side
from tests.services.embedder.serving import Client
from tests.shared.decoding.hostile import flat_png, png_above, run_length_bmp, slow_jpeg
from tests.support.processes import running_module

# Requests that are repeated at the same time, and their time-out in seconds.
Attack: TypeAlias = tuple[list[pb.EmbedRequest], float]
_MAX_PIXELS = ImageLimits().image_max_pixels


def _images(data: bytes, count: int) -> pb.EmbedRequest:
    aligned = image_pb2.Image(data=data, alignment=image_pb2.ALIGNMENT_ALIGNED)
    return pb.EmbedRequest(images=[aligned] * count)


def _unlike(data: bytes, count: int) -> pb.EmbedRequest:
    """Images that are not found in the cache; what follows a picture is ignored."""
    images = [data + number.to_bytes(2, "big") for number in range(count)]
    return pb.EmbedRequest(
        images=[
            image_pb2.Image(data=each, alignment=image_pb2.ALIGNMENT_ALIGNED) for each in images
        ]
    )


ATTACKS: dict[str, Callable[[], Attack]] = {
    "twelve one row above the limit": lambda: ([_images(png_above(_MAX_PIXELS), 12)] * 6, 30.0),
    "forty of 50 megapixels": lambda: ([_unlike(flat_png(8160, 6144), 40)], 60.0),
    "forty of 50 megapixels, twice": lambda: ([_unlike(flat_png(8160, 6144), 40)] * 2, 60.0),
    "eight of 50 megapixels": lambda: ([_unlike(flat_png(7000, 7000), 8)] * 2, 30.0),
    "slow scans": lambda: ([_images(slow_jpeg(7000, 7000, 300), 1)] * 2, 1.0),
    "slow scans below the limit": lambda: ([_images(slow_jpeg(7000, 7000, 10), 1)] * 2, 1.0),
    "run-length bmp": lambda: ([_images(run_length_bmp(7000, 7000), 1)] * 2, 30.0),
}


async def verify_for(client: Client, seconds: float) -> list[float]:
    """Verify new pictures as another caller; gives the seconds of each call."""
    faces = crops(2)
    took, end, number = [], time.monotonic() + seconds, 0
    while time.monotonic() < end:
        # Never the same pixels, so that nothing is found in the cache.
        number += 1
        a, b = (crop.copy() for crop in faces)
        a[0, 0] = number % 256, number // 256 % 256, 7
        started = time.monotonic()
        await client.verify(image_side(a), image_side(b))
        took.append(time.monotonic() - started)
        await asyncio.sleep(0.01)
    return took


@contextlib.contextmanager
def hostile_caller(address: str, attack: Attack, folder: Path) -> Iterator[None]:
    """Attack a server during the block; the folder is for the requests."""
    requests, timeout_s = attack
    files = [folder / f"request-{number}" for number in range(len(requests))]
    for file, request in zip(files, requests, strict=True):
        file.write_bytes(request.SerializeToString())
    with running_module(__name__, address, str(timeout_s), *map(str, files)):
        yield


async def _attack(address: str, timeout_s: float, requests: list[pb.EmbedRequest]) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        stub = EmbedderServiceStub(channel)

        async def repeat(request: pb.EmbedRequest) -> None:
            while True:
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await stub.Embed(request, timeout=timeout_s)

        await asyncio.gather(*map(repeat, requests))


if __name__ == "__main__":
    contents = [Path(file).read_bytes() for file in sys.argv[3:]]
    requests = [pb.EmbedRequest.FromString(content) for content in contents]
    asyncio.run(_attack(sys.argv[1], float(sys.argv[2]), requests))
