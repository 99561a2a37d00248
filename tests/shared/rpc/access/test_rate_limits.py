import asyncio
import resource
import socket
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from shared.errors import Overloaded, PreconditionFailed
from shared.rpc.channel import open_channel
from shared.rpc.errors import from_rpc_error
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import LOCAL, SERVICE, EchoProcess, call, echo
from tests.support.tokens import Issuer, bearer, write_jwks
from tests.support.waiting import until

READ, CHANGE = "GetStats", "DeleteImage"
FEEDBACK = "magface.v1.FeedbackService"
RATE = 2.0


@asynccontextmanager
async def _build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
    async def one(_: bytes, __: Any) -> bytes:
        return b""

    async def each(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield request

    handlers = {
        READ: grpc.unary_unary_rpc_method_handler(one),
        CHANGE: grpc.unary_unary_rpc_method_handler(one),
        "SubmitFeedbackStream": grpc.stream_stream_rpc_method_handler(each),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(FEEDBACK, handlers)])
    await lifecycle.set_ready(True)
    yield


@asynccontextmanager
async def served(folder: Path, issuer: Issuer, **limits: float) -> AsyncIterator[grpc.aio.Channel]:
    jwks = str(write_jwks(folder / "jwks", issuer))
    settings = LOCAL.model_copy(update={"jwks": jwks, **limits})
    async with (
        running_server(settings, FEEDBACK, _build) as address,
        open_channel(address) as channel,
    ):
        yield channel


async def _call(channel: grpc.aio.Channel, method: str, token: str) -> float | None:
    """Call a method; returns the seconds to wait if the caller has called too often."""
    made = channel.unary_unary(f"/{FEEDBACK}/{method}")(b"", metadata=bearer(token), timeout=20)
    try:
        await made
    except grpc.aio.AioRpcError as error:
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        raised = from_rpc_error(error)
        assert isinstance(raised, Overloaded)
        return raised.retry_after_s
    return None


async def test_each_subject_has_its_own_limit_for_each_kind_of_call(tmp_path: Path) -> None:
    issuer = Issuer()
    anna, bob = (issuer.token("operator", subject=name) for name in ("anna", "bob"))
    limits = {"reads_per_s": RATE, "changes_per_s": RATE, "burst_s": 1.5}
    async with served(tmp_path, issuer, **limits) as channel:
        assert [await _call(channel, READ, anna) for _ in range(3)] == [None] * 3
        wait_s = await _call(channel, READ, anna)
        assert wait_s is not None
        assert 0 < wait_s <= 1 / RATE
        # Another token of the same subject is no way around it; other kinds and people are free.
        again = issuer.token("operator", subject="anna", jti="2")
        assert await _call(channel, READ, again) is not None
        assert await _call(channel, CHANGE, anna) is None
        assert await _call(channel, READ, bob) is None
        await asyncio.sleep(wait_s)
        assert await _call(channel, READ, anna) is None


async def test_without_settings_there_is_no_limit(tmp_path: Path) -> None:
    issuer = Issuer()
    token = issuer.token("operator")
    async with served(tmp_path, issuer) as channel:
        answers = await asyncio.gather(*(_call(channel, READ, token) for _ in range(200)))
    assert answers == [None] * 200


async def test_messages_of_a_stream_wait_for_their_turn(tmp_path: Path) -> None:
    issuer = Issuer()
    async with served(tmp_path, issuer, changes_per_s=20.0, burst_s=0.25) as channel:
        stream = channel.stream_stream(f"/{FEEDBACK}/SubmitFeedbackStream")
        began = time.monotonic()
        metadata = bearer(issuer.token("annotator"))
        answers = [one async for one in stream([b"x"] * 15, metadata=metadata, timeout=20)]
    assert len(answers) == 15
    # The first five at once, then one every 50 ms.
    assert time.monotonic() - began >= 0.45


async def _repeat(request: bytes) -> bytes:
    return request


async def test_idle_connections_are_closed_and_no_call_fails() -> None:
    settings = LOCAL.model_copy(update={"idle_connection_s": 0.5})
    async with (
        running_server(settings, SERVICE, echo(_repeat)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        assert await call(channel, "unary_unary", b"a") == [b"a"]
        await until(lambda: channel.get_state() is grpc.ChannelConnectivity.IDLE, 20)
        assert await call(channel, "unary_unary", b"b") == [b"b"]


@pytest.mark.parametrize("name", ["reads_per_s", "changes_per_s", "burst_s", "idle_connection_s"])
def test_a_limit_is_more_than_nothing(name: str) -> None:
    with pytest.raises(PreconditionFailed, match=f"MAGFACE_{name.upper()}"):
        type(LOCAL)(**{name: 0})


async def test_a_thousand_idle_connections_lock_nobody_out(tmp_path: Path) -> None:
    """The process starts with the usual limit of 1,024 files."""
    ours = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack, EchoProcess(tmp_path) as process:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(1024, ours[0]), ours[1]))
        try:
            address = await asyncio.to_thread(process.start)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (ours[1], ours[1]))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, ours)
        host, _, port = address.rpartition(":")
        for _ in range(1200):
            stack.enter_context(socket.create_connection((host, int(port)), timeout=20))
        async with grpc.aio.insecure_channel(address) as channel:
            assert await call(channel, "unary_unary", b"a") == [b"a"]
