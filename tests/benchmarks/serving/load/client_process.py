"""The client, a process of its own: a load as JSON on stdin, what it saw as JSON on stdout."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import grpc
import uvloop
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from tests.benchmarks.serving.load import images
from tests.benchmarks.serving.load.connections import Address, targets
from tests.benchmarks.serving.load.patterns import (
    Checked,
    Seen,
    ask_at_rate,
    ask_without_pause,
    leave_early,
)


async def _main() -> None:
    order = json.loads(sys.stdin.readline())
    faces = images.faces()
    before = time.process_time()
    seen = await _run(order["load"], faces, Address(**order["address"]), order)
    seen.cpu_s = time.process_time() - before
    sys.stdout.write(json.dumps(vars(seen)))


async def _run(load: str, faces: list[bytes], address: Address, order: dict[str, Any]) -> Seen:
    repeat = order.get("repeat", False)
    pictures = (images.repeated if repeat else images.fresh)(faces)
    if load == "without_pause":
        async with targets(address, order["callers"]) as callers:
            return await ask_without_pause(callers, pictures, order["seconds"])
    async with grpc.aio.insecure_channel(address.host_port) as channel:
        stub = EmbedderServiceStub(channel)
        if load == "at_rate":
            return await ask_at_rate(stub, pictures, order["rate"], order["seconds"])
        if load == "leave_early":
            patience = (order["patience_s"][0], order["patience_s"][1])
            return await leave_early(stub, pictures, order["callers"], patience, order["seconds"])
        checked = Checked(Path(order["references"]), order["images"])
        return await checked.ask(stub, pictures, order["callers"], await _stdin_closed())


async def _stdin_closed() -> asyncio.Event:
    closed = asyncio.Event()

    async def watch() -> None:
        await asyncio.to_thread(sys.stdin.read)
        closed.set()

    # Kept by the event, as a task that nobody holds may be collected.
    closed.watching = asyncio.create_task(watch())  # type: ignore[attr-defined]
    return closed


if __name__ == "__main__":
    uvloop.run(_main())
