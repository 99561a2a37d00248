"""A hostile caller in a process of its own: ``python -m … ADDRESS TIMEOUT_S FILE…``.

Each file has an EmbedRequest, which is sent again as soon as it is answered, without an end.
"""

import asyncio
import contextlib
import sys
from pathlib import Path

import grpc
from magface.v1 import embedder_pb2 as pb
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub


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
