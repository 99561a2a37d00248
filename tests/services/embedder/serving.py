"""The real server in this process, and a client for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import magface_client
from magface.v1 import embedder_pb2 as pb
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from services.embedder.server import SERVICE_NAME, embedder
from services.embedder.settings import EmbedderSettings
from shared.rpc.server.runner import running_server
from tests.support.waiting import until, wait_until


class Client:
    """A stub, and waits for the serving version."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.stub = EmbedderServiceStub(channel)

    async def embed(self, *images) -> pb.EmbedResponse:
        return await self.stub.Embed(pb.EmbedRequest(images=images), timeout=20)

    async def verify(self, a: pb.VerifySide, b: pb.VerifySide) -> pb.VerifyResponse:
        return await self.stub.Verify(pb.VerifyRequest(a=a, b=b), timeout=20)

    async def model(self) -> pb.GetModelResponse:
        return await self.stub.GetModel(pb.GetModelRequest(), timeout=5)

    async def until_serving(self, version: str, timeout_s: float = 60.0) -> None:
        await self._until(lambda model: model.model_version == version, timeout_s)

    async def until_swap_error(self) -> pb.GetModelResponse:
        return await self._until(lambda model: model.swap_error)

    async def _until(self, condition, timeout_s: float = 60.0) -> pb.GetModelResponse:
        seen: list[pb.GetModelResponse] = []

        async def look() -> bool:
            seen.append(await self.model())
            return bool(condition(seen[-1]))

        await until(look, timeout_s)
        return seen[-1]


def wait_until_serving(client: magface_client.Client, version: str) -> None:
    """Blocks until the callers' client finds that the version serves."""

    def serves() -> bool:
        try:
            return client.model().model_version == version
        except magface_client.UnavailableError:
            return False

    wait_until(serves, 90)


@asynccontextmanager
async def running_embedder(settings: EmbedderSettings) -> AsyncIterator[Client]:
    async with (
        running_server(settings, SERVICE_NAME, embedder(settings)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield Client(channel)
