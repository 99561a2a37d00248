"""Unfinished requests take a bounded part of the memory, for a bounded time."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

import grpc
import psutil
import pytest

from shared.errors import MagFaceError
from shared.rpc.channel import open_channel
from shared.rpc.server.connections import received_bytes
from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import KINDS, LOCAL, SERVICE, call, echo
from tests.support.processes import ServiceProcess
from tests.support.unfinished import UnfinishedCalls

MIB = 2**20
BUDGET = 48 * MIB
TIMEOUT_S = 4.0
# Per-call buffers, and what arrives between two looks at the connections.
SLACK = 160 * MIB


class Server(ServiceProcess):
    """The echo service with small bounds."""

    def __init__(self, folder: Path) -> None:
        environment = {
            "MAGFACE_UPLOAD_BYTES": str(BUDGET),
            "MAGFACE_UPLOAD_TIMEOUT_S": str(TIMEOUT_S),
            "MAGFACE_MAX_MESSAGE_BYTES": str(20 * MIB),
        }
        super().__init__("tests.shared.rpc.echo", folder, environment, ("0", str(folder / "log-")))

    def memory(self) -> int:
        return int(psutil.Process(self.pid).memory_info().rss)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path) as process:
        process.start()
        yield process


async def _act(request: bytes) -> bytes:
    return request


async def _send_unfinished(server: Server, clients: int, calls: int, kind: str) -> list[int]:
    """Send 19 of 20 MiB in each call of each client; returns the statuses of all."""
    body = memoryview(bytes(19 * MIB))

    async def one() -> list[int]:
        async with UnfinishedCalls(server.address) as client:
            begun = [client.begin(f"/{SERVICE}/{kind}", 20 * MIB) for _ in range(calls)]
            await asyncio.gather(*[client.send(number, body) for number in begun])
            await client.ended(begun)
            return list(client.statuses.values())

    return list(chain(*await asyncio.gather(*[one() for _ in range(clients)])))


async def _highest(server: Server) -> int:
    highest = 0
    with suppress(asyncio.CancelledError):
        while True:
            highest = max(highest, server.memory())
            await asyncio.sleep(0.01)
    return highest


@pytest.mark.parametrize(("clients", "calls"), [(1, 30), (30, 1)])
@pytest.mark.parametrize("kind", ["unary_unary", "stream_stream"])
async def test_unfinished_requests_stay_within_the_budget_and_end(
    server: Server, clients: int, calls: int, kind: str
) -> None:
    before = server.memory()
    watching = asyncio.create_task(_highest(server))
    statuses = await asyncio.wait_for(_send_unfinished(server, clients, calls, kind), 60)
    watching.cancel()
    assert await watching < before + BUDGET + SLACK
    assert set(statuses) == {
        grpc.StatusCode.RESOURCE_EXHAUSTED.value[0],
        grpc.StatusCode.DEADLINE_EXCEEDED.value[0],
    }
    async with open_channel(server.address) as channel:
        assert await call(channel, "unary_unary", bytes(15 * MIB)) == [bytes(15 * MIB)]


async def test_a_slow_request_that_arrives_in_time_is_answered(server: Server) -> None:
    async with UnfinishedCalls(server.address) as client, UnfinishedCalls(server.address) as other:
        slow = client.begin(f"/{SERVICE}/unary_unary", 10 * MIB)
        for _ in range(10):
            await client.send(slow, memoryview(bytes(MIB)))
            await asyncio.sleep(0.05)
        # The connection that holds most is the one that has to give way.
        greedy = [other.begin(f"/{SERVICE}/unary_unary", 20 * MIB) for _ in range(5)]
        body = memoryview(bytes(19 * MIB))
        await asyncio.gather(*[other.send(number, body) for number in greedy])
        client.finish(slow)
        await client.ended([slow])
        assert client.statuses[slow] == 0
        assert grpc.StatusCode.RESOURCE_EXHAUSTED.value[0] in other.statuses.values()


async def test_a_request_over_a_slow_link_is_answered_if_it_goes_on(server: Server) -> None:
    async with UnfinishedCalls(server.address) as client:
        slow = client.begin(f"/{SERVICE}/unary_unary", 8 * MIB)
        started = time.monotonic()
        for _ in range(8):
            await client.send(slow, memoryview(bytes(MIB)))
            await asyncio.sleep(TIMEOUT_S / 6)
        assert time.monotonic() - started > 1.2 * TIMEOUT_S
        client.finish(slow)
        await client.ended([slow])
        assert client.statuses[slow] == 0


async def test_an_idle_stream_stays_open_and_an_idle_upload_does_not(server: Server) -> None:
    async def slow(seconds: float) -> AsyncIterator[bytes]:
        yield b"a"
        await asyncio.sleep(seconds)
        yield b"b"

    async with open_channel(server.address) as channel:
        answers = channel.stream_stream(f"/{SERVICE}/stream_stream")(slow(1.5 * TIMEOUT_S))
        started = time.monotonic()
        assert [answer async for answer in answers] == [b"a", b"b"]
        assert time.monotonic() - started > TIMEOUT_S
        with pytest.raises(grpc.aio.AioRpcError, match="MAGFACE_UPLOAD_TIMEOUT_S") as ended:
            await channel.stream_unary(f"/{SERVICE}/stream_unary")(slow(30))
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.parametrize("kind", KINDS)
async def test_a_call_without_a_message_is_answered(kind: str) -> None:
    async with (
        running_server(LOCAL, SERVICE, echo(_act)) as address,
        UnfinishedCalls(address) as client,
    ):
        empty = client.begin(f"/{SERVICE}/{kind}")
        client.finish(empty)
        await asyncio.wait_for(client.ended([empty]), 10)
    unary = grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert client.statuses[empty] == (0 if kind.startswith("stream") else unary)


async def test_a_compressed_request_is_refused() -> None:
    async with (
        running_server(LOCAL, SERVICE, echo(_act)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        method = channel.unary_unary(f"/{SERVICE}/unary_unary")
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await method(bytes(MIB), compression=grpc.Compression.Gzip)
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_kernel_counts_what_each_connection_received() -> None:
    seen: list[tuple[str, int]] = []

    async def count(request: bytes) -> bytes:
        seen.append((str(len(request)), max(received_bytes(port).values())))
        return request

    async with running_server(LOCAL, SERVICE, echo(count)) as address:
        port = int(address.rpartition(":")[2])
        assert received_bytes(port) == {}
        async with open_channel(address) as channel:
            with suppress(MagFaceError):
                await call(channel, "unary_unary", bytes(100_000))
    assert 100_000 <= seen[0][1] < 110_000
