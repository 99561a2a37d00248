"""Unfinished uploads: the memory of the embedder, and what another caller notices."""

import asyncio
import contextlib
import itertools
import multiprocessing
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.default_version import export_default
from tests.services.embedder.hostile_caller import verify_for
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import Client
from tests.support.memory import MemoryWatch, tree_bytes
from tests.support.unfinished import UnfinishedCalls

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
_EMBED = "/magface.v1.EmbedderService/Embed"
_LIMIT = 10**9
_LEFT = 150 * 10**6
# A p99 below this is that of a busy machine, not of a hostile caller.
_NOISE_S = 0.1


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
async def test_memory_stays_under_the_limit_and_is_freed_and_others_are_served(
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
            await verify_for(client, 1)
            idle = tree_bytes(process.pid)
            before = await verify_for(client, 5)
            uploads = multiprocessing.get_context("spawn").Process(
                target=_begin_uploads, args=(address, calls, connections)
            )
            with MemoryWatch(process.pid) as memory:
                uploads.start()
                during = await verify_for(client, 10)
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
        assert after < idle + _LEFT
        assert loud < max(3 * quiet, _NOISE_S)
