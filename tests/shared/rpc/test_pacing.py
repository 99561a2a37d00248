"""The pace of connections with large requests."""

import asyncio
import time

import pytest

from shared.rpc.server.pacing import UploadPace

MIB = 2**20
A, B, NEW = "ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2", "ipv4:127.0.0.1:3"


async def _seconds(pace: UploadPace, *peers: str) -> float:
    started = time.monotonic()
    for peer in peers:
        await pace.wait(peer)
    return time.monotonic() - started


async def test_small_requests_and_a_few_large_ones_do_not_wait():
    pace = UploadPace()
    for _ in range(10_000):
        pace.count(A, 64 * 2**10)
    pace.count(B, 8 * MIB)
    assert await _seconds(pace, A, B, NEW) < 0.05


async def test_what_is_above_the_pace_waits_and_other_connections_do_not():
    pace = UploadPace()
    pace.count(A, 64 * MIB)
    # The first has its turn at once, the next when that one is paid for.
    took = asyncio.create_task(_seconds(pace, A, A))
    await asyncio.sleep(0)
    assert await _seconds(pace, B) < 0.05
    assert 0.4 < await took < 1.0
    pace.keep([B])
    assert await _seconds(pace, A) < 0.05


async def test_a_connection_with_many_calls_gets_no_more_turns_than_another():
    pace = UploadPace()
    for peer in (A, B):
        pace.count(peer, 16 * MIB)
    turns: list[str] = []

    async def call(peer: str) -> None:
        await pace.wait(peer)
        turns.append(peer)
        pace.count(peer, 16 * MIB)

    calls = [asyncio.create_task(call(A)) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.wait_for(call(B), 1)
    assert turns.count(A) <= 2
    for each in calls:
        each.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_calls_that_end_while_they_wait_take_nobodys_turn():
    pace = UploadPace()
    pace.count(A, 64 * MIB)
    for _ in range(20):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(_seconds(pace, A, A), 0.001)
    assert await _seconds(pace, A) < 0.7
