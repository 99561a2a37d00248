"""One hostile caller: the memory of the embedder, and what another caller notices."""

import asyncio
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from tests.default_version import export_default
from tests.services.embedder.faces import crops, image
from tests.services.embedder.hostile_caller import ATTACKS, hostile_caller, verify_for
from tests.services.embedder.process import EmbedderProcess
from tests.services.embedder.serving import Client
from tests.support.memory import MemoryWatch, tree_bytes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc"),
]
_LIMIT = 10**9
_CROPS = crops(8)


@pytest.mark.parametrize("name", ATTACKS)
async def test_memory_stays_under_the_limit_and_others_are_served(
    name, embedder_settings, registry, tmp_path: Path
):
    registry.publish(export_default(tmp_path / "iresnet18w16-default"))
    registry.promote("iresnet18w16-default")
    attack = ATTACKS[name]()
    with EmbedderProcess(embedder_settings, tmp_path) as process:
        async with grpc.aio.insecure_channel(await asyncio.to_thread(process.start)) as channel:
            client = Client(channel)
            await client.until_serving("iresnet18w16-default")
            await client.embed(image(_CROPS[0]))
            await verify_for(client, 1)
            idle = tree_bytes(process.pid)
            before = await verify_for(client, 5)
            with (
                MemoryWatch(process.pid) as memory,
                hostile_caller(process.address, attack, tmp_path),
            ):
                during = await verify_for(client, 15)
        quiet, loud = (float(np.percentile(took, 99)) for took in (before, during))
        print(  # noqa: T201
            f"{name}: idle {idle / 1e6:.0f} MB, most {memory.most / 1e6:.0f} MB, p99 "
            f"{quiet * 1e3:.0f} ms before and {loud * 1e3:.0f} ms during"
        )
        assert memory.most < _LIMIT
        assert loud < 3 * quiet
        assert process.stop() == 0
