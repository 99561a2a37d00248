import asyncio
import urllib.request
from contextlib import suppress

import grpc
import pytest
from prometheus_client import REGISTRY

from deploy.local.state_files import PortBook
from shared.errors import NotFound
from shared.rpc.channel import open_channel
from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import KINDS, LOCAL, SERVICE, call, echo


def _sample(name: str, kind: str, **labels: str) -> float:
    labels = {"method": f"/{SERVICE}/{kind}", **labels}
    return REGISTRY.get_sample_value(f"magface_rpc_{name}", labels) or 0.0


async def _act(request: bytes) -> bytes:
    if request == b"fail":
        raise NotFound("x")
    if request == b"break":
        raise ZeroDivisionError
    await asyncio.sleep(0.05)
    return request


@pytest.mark.parametrize("kind", KINDS)
async def test_calls_are_counted_by_their_code_and_timed(kind: str) -> None:
    outcomes = {b"x": "OK", b"fail": "NOT_FOUND", b"break": "INTERNAL"}
    before = {code: _sample("calls_total", kind, code=code) for code in outcomes.values()}
    timed, spent = _sample("duration_seconds_count", kind), _sample("duration_seconds_sum", kind)
    async with (
        running_server(LOCAL, SERVICE, echo(_act)) as address,
        open_channel(address) as channel,
    ):
        for request in outcomes:
            with suppress(grpc.aio.AioRpcError):
                await call(channel, kind, request)
    for code, count in before.items():
        assert _sample("calls_total", kind, code=code) == count + 1
    assert _sample("duration_seconds_count", kind) == timed + 3
    assert 0.05 <= _sample("duration_seconds_sum", kind) - spent < 30


async def test_cancelled_call_is_counted_and_no_longer_in_flight() -> None:
    started = asyncio.Event()

    async def act(request: bytes) -> bytes:
        started.set()
        await asyncio.sleep(30)
        return request

    before = _sample("calls_total", "unary_unary", code="CANCELLED")
    async with (
        running_server(LOCAL, SERVICE, echo(act)) as address,
        open_channel(address) as channel,
    ):
        task = asyncio.create_task(call(channel, "unary_unary", b"x"))
        await started.wait()
        assert _sample("in_flight", "unary_unary") == 1
        task.cancel()
    assert _sample("in_flight", "unary_unary") == 0
    assert _sample("calls_total", "unary_unary", code="CANCELLED") == before + 1


async def test_page_shows_them(tmp_path_factory: pytest.TempPathFactory) -> None:
    port = PortBook(tmp_path_factory.mktemp("ports") / "ports.json").take("metrics")
    settings = LOCAL.model_copy(update={"metrics_port": port})
    async with (
        running_server(settings, SERVICE, echo(_act)) as address,
        open_channel(address) as channel,
    ):
        await call(channel, "unary_unary", b"x")
        url = f"http://127.0.0.1:{port}/metrics"
        with await asyncio.to_thread(urllib.request.urlopen, url) as page:
            text = page.read().decode()
    assert f'magface_rpc_calls_total{{code="OK",method="/{SERVICE}/unary_unary"}}' in text
