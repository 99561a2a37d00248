"""One hostile caller: the memory of the embedder, and what another caller notices."""

import asyncio
import contextlib
import itertools
import multiprocessing
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from magface.v1 import embedder_pb2 as pb
from magface.v1 import image_pb2

from tests.default_version import export_default
from tests.services.embedder.faces import crops, image, image_side
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import Client
from tests.shared.decoding.hostile import flat_png, run_length_bmp, slow_jpeg
from tests.support.memory import MemoryWatch, tree_bytes
from tests.support.unfinished import UnfinishedCalls

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
_LIMIT = 10**9
_EMBED = "/magface.v1.EmbedderService/Embed"
_CROPS = crops(8)
# A p99 below this is that of a busy machine, not of a hostile caller.
_NOISE_S = 0.1


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


_ATTACKS: dict[str, Callable[[], tuple[list[pb.EmbedRequest], float]]] = {
    "twelve above the limit": lambda: ([_images(flat_png(7072, 7072), 12)] * 6, 30.0),
    "forty of 50 megapixels": lambda: ([_unlike(flat_png(7000, 7000), 40)], 60.0),
    "eight of 50 megapixels": lambda: ([_unlike(flat_png(7000, 7000), 8)] * 2, 30.0),
    "slow scans": lambda: ([_images(slow_jpeg(7000, 7000, 300), 1)] * 2, 1.0),
    "slow scans below the limit": lambda: ([_images(slow_jpeg(7000, 7000, 10), 1)] * 2, 1.0),
    "run-length bmp": lambda: ([_images(run_length_bmp(7000, 7000), 1)] * 2, 30.0),
}


async def _verify_for(client: Client, seconds: float) -> list[float]:
    took, end, number = [], time.monotonic() + seconds, 0
    while time.monotonic() < end:
        # Never the same pixels, so that nothing is found in the cache.
        number += 1
        a, b = (crop.copy() for crop in _CROPS[:2])
        a[0, 0] = number % 256, number // 256 % 256, 7
        started = time.monotonic()
        await client.verify(image_side(a), image_side(b))
        took.append(time.monotonic() - started)
        await asyncio.sleep(0.01)
    return took


def _begin_uploads(address: str, calls: int, connections: int) -> None:
    """Send 59 MB of a message of 60 MB in each call, and wait until the server has ended them."""
    asyncio.run(_upload_all(address, calls, connections))


async def _upload_all(address: str, calls: int, connections: int) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(UnfinishedCalls(address)) for _ in range(connections)
        ]
        begun = [
            (client, client.begin(_EMBED, 60 * 10**6))
            for client in itertools.islice(itertools.cycle(clients), calls)
        ]
        body = memoryview(bytes(59 * 10**6))
        await asyncio.gather(*[client.send(call, body) for client, call in begun])
        await asyncio.gather(*[client.ended([call]) for client, call in begun])


@pytest.mark.parametrize(("calls", "connections"), [(14, 1), (100, 20), (500, 100)])
async def test_unfinished_uploads_take_a_part_of_the_limit_and_others_are_served(
    calls, connections, embedder_settings, registry, tmp_path: Path
):
    registry.publish(export_default(tmp_path / "iresnet18w16-default"))
    registry.promote("iresnet18w16-default")
    bounds = {"MAGFACE_UPLOAD_TIMEOUT_S": "12"}
    with EmbedderProcess(embedder_settings, tmp_path, **bounds) as process:
        address = await asyncio.to_thread(process.start)
        async with grpc.aio.insecure_channel(address) as channel:
            client = Client(channel)
            await client.until_serving("iresnet18w16-default")
            await _verify_for(client, 1)
            idle = tree_bytes(process.pid)
            before = await _verify_for(client, 5)
            uploads = multiprocessing.get_context("spawn").Process(
                target=_begin_uploads, args=(address, calls, connections)
            )
            with MemoryWatch(process.pid) as memory:
                uploads.start()
                during = await _verify_for(client, 10)
                await asyncio.to_thread(uploads.join, 60)
            await asyncio.sleep(2)
        quiet, loud = (float(np.percentile(took, 99)) for took in (before, during))
        after = tree_bytes(process.pid)
        print(  # noqa: T201
            f"{calls} uploads: idle {idle / 1e6:.0f} MB, most {memory.most / 1e6:.0f} MB, then "
            f"{after / 1e6:.0f} MB, p99 {quiet * 1e3:.0f} ms before and {loud * 1e3:.0f} ms during"
        )
        assert uploads.exitcode == 0
        assert memory.most < _LIMIT
        assert after < idle + 150e6
        assert loud < max(3 * quiet, _NOISE_S)


@contextlib.contextmanager
def _hostile_caller(
    address: str, requests: list[pb.EmbedRequest], timeout_s: float, folder: Path
) -> Iterator[None]:
    files = [folder / f"request-{number}" for number in range(len(requests))]
    for file, request in zip(files, requests, strict=True):
        file.write_bytes(request.SerializeToString())
    command = [sys.executable, "-m", "tests.services.embedder.hostile_caller", address]
    process = subprocess.Popen([*command, str(timeout_s), *map(str, files)])
    try:
        yield
        assert process.poll() is None
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("name", _ATTACKS)
async def test_memory_stays_under_the_limit_and_others_are_served(
    name, embedder_settings, registry, tmp_path: Path
):
    registry.publish(export_default(tmp_path / "iresnet18w16-default"))
    registry.promote("iresnet18w16-default")
    requests, timeout_s = _ATTACKS[name]()
    with EmbedderProcess(embedder_settings, tmp_path) as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving("iresnet18w16-default")
            await client.embed(image(_CROPS[0]))
            await _verify_for(client, 1)
            idle = tree_bytes(process.pid)
            before = await _verify_for(client, 5)
            with (
                MemoryWatch(process.pid) as memory,
                _hostile_caller(process.address, requests, timeout_s, tmp_path),
            ):
                during = await _verify_for(client, 15)
        quiet, loud = (float(np.percentile(took, 99)) for took in (before, during))
        print(  # noqa: T201
            f"{name}: idle {idle / 1e6:.0f} MB, most {memory.most / 1e6:.0f} MB, p99 "
            f"{quiet * 1e3:.0f} ms before and {loud * 1e3:.0f} ms during"
        )
        assert memory.most < _LIMIT
        assert loud < max(3 * quiet, _NOISE_S)
        assert process.stop() == 0
