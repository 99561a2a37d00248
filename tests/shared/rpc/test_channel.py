import asyncio
import os
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from shared.errors import Overloaded, Unavailable
from shared.rpc.channel import open_channel, open_sync_channel
from shared.rpc.errors import domain_errors
from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import LOCAL, REPEATABLE, SERVICE, Act, EchoProcess, call, echo
from tests.support.details import raises_with_details


def _counting(counts: Counter[str], name: str) -> Act:
    async def act(request: bytes) -> bytes:
        counts[name] += 1
        if request == b"unavailable":
            raise Unavailable("away")
        if request == b"overloaded":
            raise Overloaded("full", 1)
        return request

    return act


async def test_calls_go_round_the_replicas_that_are_ready() -> None:
    counts: Counter[str] = Counter()
    async with AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(
                running_server(
                    LOCAL, SERVICE, echo(_counting(counts, name), ready=name != "not ready")
                )
            )
            for name in ("one", "two", "not ready")
        ]
        channel = await stack.enter_async_context(open_channel("ipv4:" + ",".join(addresses)))
        # The first calls go to the server that is connected first.
        async with asyncio.timeout(10):
            while len(counts) < 2:
                await call(channel, "unary_unary", b"x")
        counts.clear()
        for _ in range(20):
            await call(channel, "unary_unary", b"x")
    assert counts == {"one": 10, "two": 10}


async def test_server_that_is_not_ready_is_unavailable() -> None:
    async with (
        running_server(LOCAL, SERVICE, echo(_counting(Counter(), "x"), ready=False)) as address,
        open_channel(address) as channel,
    ):
        with raises_with_details(Unavailable, match="unhealthy"), domain_errors():
            await call(channel, "unary_unary", b"x")


@pytest.mark.parametrize(
    ("request_", "error", "attempts"),
    [(b"unavailable", Unavailable, 5), (b"overloaded", Overloaded, 1)],
)
async def test_only_unavailable_is_tried_again(
    request_: bytes, error: type[Exception], attempts: int
) -> None:
    counts: Counter[str] = Counter()
    async with (
        running_server(LOCAL, SERVICE, echo(_counting(counts, "calls"))) as address,
        open_channel(address) as channel,
    ):
        with pytest.raises(error), domain_errors():
            await channel.unary_unary(REPEATABLE)(request_, timeout=20)
    assert counts == {"calls": attempts}


async def test_nobody_listening_is_unavailable_in_time() -> None:
    started = time.monotonic()
    async with open_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable), domain_errors():
            await call(channel, "unary_unary", b"x")
    assert time.monotonic() - started < 8


async def test_server_that_comes_back_is_found_again() -> None:
    counts: Counter[str] = Counter()
    async with running_server(LOCAL, SERVICE, echo(_counting(counts, "first"))) as address:
        channel = open_channel(address)
        await call(channel, "unary_unary", b"x")
    with pytest.raises(Unavailable), domain_errors():
        await call(channel, "unary_unary", b"x")
    again = LOCAL.model_copy(update={"listen": address})
    async with running_server(again, SERVICE, echo(_counting(counts, "second"))):
        started = time.monotonic()
        method = channel.unary_unary(f"/{SERVICE}/unary_unary")
        assert await method(b"x", timeout=10, wait_for_ready=True) == b"x"
        assert time.monotonic() - started < 8
    await channel.close()


async def test_large_messages_pass_both_ways() -> None:
    data = os.urandom(40 * 2**20)
    async with (
        running_server(LOCAL, SERVICE, echo(_counting(Counter(), "x"))) as address,
        open_channel(address) as channel,
    ):
        assert await call(channel, "unary_unary", data) == [data]


async def test_blocking_channel_has_the_same_policy() -> None:
    counts: Counter[str] = Counter()

    def unavailable_then_fine(address: str) -> bytes:
        with open_sync_channel(address) as channel:
            method = channel.unary_unary(REPEATABLE)
            with pytest.raises(Unavailable, match="away"), domain_errors():
                method(b"unavailable", timeout=10)
            return method(b"x", timeout=10)

    async with running_server(LOCAL, SERVICE, echo(_counting(counts, "calls"))) as address:
        with ThreadPoolExecutor(1) as pool:
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(pool, unavailable_then_fine, address) == b"x"
    assert counts == {"calls": 6}


@pytest.mark.slow
async def test_frozen_server_is_unavailable_even_without_a_deadline(tmp_path: Path) -> None:
    with EchoProcess(tmp_path / "server") as process:
        async with open_channel(await asyncio.to_thread(process.start)) as channel:
            method = channel.unary_unary(f"/{SERVICE}/unary_unary")
            assert await method(b"x") == b"x"
            process.send_signal(signal.SIGSTOP)
            started = time.monotonic()
            with pytest.raises(Unavailable), domain_errors():
                await method(b"x")
            assert time.monotonic() - started < 80
            process.send_signal(signal.SIGCONT)
            assert await method(b"x", timeout=10, wait_for_ready=True) == b"x"
