"""Client process: reads a load as JSON from stdin and writes its record as JSON to stdout."""

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
from tests.benchmarks.serving.load.connections import Address, connect_clients
from tests.benchmarks.serving.load.patterns import (
    CheckedLoad,
    LoadRecord,
    cancelling_load,
    closed_loop,
    fixed_rate,
)


async def _main() -> None:
    load = json.loads(sys.stdin.readline())
    faces = images.faces()
    before = time.process_time()
    record = await _run(load, faces, Address(**load["address"]))
    record.cpu_s = time.process_time() - before
    sys.stdout.write(json.dumps(vars(record)))


async def _run(load: dict[str, Any], faces: list[bytes], address: Address) -> LoadRecord:
    repeat = load.get("repeat", False)
    pictures = (images.repeated if repeat else images.fresh)(faces)
    pattern = load["pattern"]
    if pattern == "closed_loop":
        async with connect_clients(address, load["callers"]) as clients:
            return await closed_loop(clients, pictures, load["seconds"])
    async with grpc.aio.insecure_channel(address.host_port) as channel:
        stub = EmbedderServiceStub(channel)
        if pattern == "fixed_rate":
            return await fixed_rate(stub, pictures, load["rate"], load["seconds"])
        if pattern == "cancelling":
            wait_s = (load["patience_s"][0], load["patience_s"][1])
            return await cancelling_load(stub, pictures, load["callers"], wait_s, load["seconds"])
        checked = CheckedLoad(Path(load["references"]), load["images"], load["tolerance"])
        return await checked.run(stub, pictures, load["callers"], await _stdin_closed())


async def _stdin_closed() -> asyncio.Event:
    closed = asyncio.Event()

    async def watch() -> None:
        await asyncio.to_thread(sys.stdin.read)
        closed.set()

    # The event refers to the task, which would otherwise be garbage-collected.
    closed.watching = asyncio.create_task(watch())  # type: ignore[attr-defined]
    return closed


if __name__ == "__main__":
    uvloop.run(_main())
