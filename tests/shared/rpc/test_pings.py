"""Clients that ping an idle connection stay connected; a flood of pings is sent away."""

import asyncio
from contextlib import suppress

import grpc
import pytest
from h2.connection import H2Connection

from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import LOCAL, SERVICE, call, echo


async def _act(request: bytes) -> bytes:
    await asyncio.sleep(float(request))
    return request


async def _ping(address: str, pause_s: float, count: int) -> bool:
    """Send pings on an idle connection; says whether it is open afterwards."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    ended = asyncio.create_task(_until_end(reader))
    connection = H2Connection()
    connection.initiate_connection()
    for _ in range(count):
        if ended.done():
            break
        connection.ping(b"01234567")
        writer.write(connection.data_to_send())
        await asyncio.sleep(pause_s)
    await asyncio.wait([ended], timeout=0.5)
    writer.close()
    return not ended.done()


async def _until_end(reader: asyncio.StreamReader) -> None:
    with suppress(ConnectionError):
        while await reader.read(65_536):
            pass


async def test_pings_more_than_a_second_apart_are_answered_and_a_flood_is_not() -> None:
    async with running_server(LOCAL, SERVICE, echo(_act)) as address:
        assert await _ping(address, 1.1, 5)
        assert not await _ping(address, 0.01, 100)


@pytest.mark.slow
async def test_pings_of_an_idle_client_and_of_a_waiting_one_are_answered() -> None:
    every_ten = [
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.enable_retries", 0),
    ]
    every_five = [(name, 5_000 if "time_ms" in name else value) for name, value in every_ten]
    async with (
        running_server(LOCAL, SERVICE, echo(_act)) as address,
        grpc.aio.insecure_channel(address, options=every_ten) as idle,
        grpc.aio.insecure_channel(address, options=every_five) as waiting,
    ):
        assert await call(idle, "unary_unary", b"0") == [b"0"]
        left = asyncio.create_task(_leaves_ready(idle))
        assert await call(waiting, "unary_unary", b"50", wait_s=60) == [b"50"]
        assert not left.done()
        left.cancel()


async def _leaves_ready(channel: grpc.aio.Channel) -> None:
    await channel.wait_for_state_change(grpc.ChannelConnectivity.READY)
