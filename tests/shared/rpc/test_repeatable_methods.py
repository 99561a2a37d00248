"""The idempotency level of each method, and the retries of channels by it."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from grpc_health.v1 import health_pb2

from shared.errors import Unavailable
from shared.rpc.channel import open_channel
from shared.rpc.errors import domain_errors
from shared.rpc.retries import is_retryable, method_path, services
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import LOCAL
from tests.support.idempotency import has_key

METHODS = {method.full_name: method for service in services() for method in service.methods}
# Methods that must not be retried, with the reason.
NOT_REPEATABLE: dict[str, str] = {}


@pytest.mark.parametrize("name", METHODS)
def test_each_method_says_whether_it_may_be_repeated(name: str) -> None:
    assert is_retryable(METHODS[name]) != (name in NOT_REPEATABLE)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_whose_request_has_a_key_is_not_called_free_of_effects(name: str) -> None:
    method = METHODS[name]
    reads = method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
    assert not (reads and has_key(method.input_type))


async def test_a_channel_repeats_only_what_the_contract_marks() -> None:
    counts: Counter[str] = Counter()
    health = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
    unmarked = "/magface.v1.TrainerService/Unmarked"

    @asynccontextmanager
    async def build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        server.add_generic_rpc_handlers([_Away(counts)])
        await lifecycle.set_ready(True)
        yield

    async with running_server(LOCAL, "away", build) as address, open_channel(address) as channel:
        calls = [_call(channel, method_path(method), method) for method in METHODS.values()]
        calls += [_call(channel, unmarked, None), _call(channel, method_path(health), health)]
        *ended, _ = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in ended} == {Unavailable}
    repeated = {method_path(method): 5 for method in METHODS.values() if is_retryable(method)}
    assert counts == repeated | {unmarked: 1}
    assert not is_retryable(health)


class _Away(grpc.GenericRpcHandler):
    """Ends every call with UNAVAILABLE and counts the calls."""

    def __init__(self, counts: Counter[str]) -> None:
        self._counts = counts

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        if details.method.startswith("/grpc."):
            return None
        self._counts[details.method] += 1

        async def away(_requests: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")

        return grpc.stream_stream_rpc_method_handler(away)


async def _call(channel: grpc.aio.Channel, path: str, method: MethodDescriptor | None) -> None:
    request = iter([b""]) if method and method.client_streaming else b""
    kind = "stream" if method and method.client_streaming else "unary"
    with domain_errors():
        if method and method.server_streaming:
            async for _ in getattr(channel, f"{kind}_stream")(path)(request, timeout=20):
                pass
        else:
            await getattr(channel, f"{kind}_unary")(path)(request, timeout=20)
