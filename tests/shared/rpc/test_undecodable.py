"""Bytes that are no message are INVALID_ARGUMENT for every method of every service."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from magface.v1 import embedder_pb2 as pb

from shared.errors import InvalidInput
from shared.rpc.retries import method_path, services
from shared.rpc.server.requests import request_parser
from shared.rpc.server.runner import running_server
from tests.shared.rpc.contract import contract, kind_of
from tests.shared.rpc.echo import LOCAL, SERVICE

METHODS = [
    method
    for service in (
        *services(),
        health_pb2.DESCRIPTOR.services_by_name["Health"],
        reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"],
    )
    for method in service.methods
]
UNDECODABLE = {
    "cut short": b"\x0a\x05abc",
    "no tag": b"\xff",
    "an unknown wire type": b"\x0f\x00",
    "a group that does not end": b"\x0b\x08\x01",
    "a length beyond any message": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    "nesting without end": b"\x0b" * 100_000,
}
DEEP = b"\x9b\x3f" * 200 + b"\x9c\x3f" * 200


async def _handle(request: Any, _: Any) -> Any:
    if hasattr(request, "__aiter__"):
        async for _one in request:
            pass
    return None


async def _answer(request: Any, _: Any) -> AsyncIterator[Any]:
    if hasattr(request, "__aiter__"):
        async for one in request:
            yield one
    else:
        yield request


def _handler(method: MethodDescriptor) -> Any:
    behaviour = _answer if method.server_streaming else _handle
    return getattr(grpc, f"{kind_of(method)}_rpc_method_handler")(
        behaviour,
        request_deserializer=GetMessageClass(method.input_type).FromString,
        response_serializer=lambda message: message.SerializeToString() if message else b"",
    )


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    async with (
        running_server(LOCAL, SERVICE, contract(_handler)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        yield channel


async def _send(
    channel: grpc.aio.Channel, method: MethodDescriptor, *messages: bytes
) -> tuple[list[bytes], grpc.StatusCode, str]:
    kind = kind_of(method)
    call = getattr(channel, kind)(method_path(method))
    request = iter(messages) if method.client_streaming else messages[0]
    answers: list[bytes] = []
    try:
        if method.server_streaming:
            async for answer in call(request, timeout=20):
                answers.append(answer)  # noqa: PERF401
        else:
            answers.append(await call(request, timeout=20))
    except grpc.aio.AioRpcError as error:
        return answers, error.code(), str(error.details())
    return answers, grpc.StatusCode.OK, ""


@pytest.mark.parametrize("what", UNDECODABLE)
async def test_every_method_refuses_what_is_no_message(
    channel: grpc.aio.Channel, what: str
) -> None:
    found = await asyncio.gather(*[_send(channel, one, UNDECODABLE[what]) for one in METHODS])
    for method, (_, code, message) in zip(METHODS, found, strict=True):
        assert code is grpc.StatusCode.INVALID_ARGUMENT, (method.full_name, message)
        assert f"cannot be parsed as {method.input_type.full_name}" in message


async def test_a_stream_answers_what_came_before_the_undecodable_message(
    channel: grpc.aio.Channel,
) -> None:
    streams = [method for method in METHODS if method.client_streaming]
    assert len(streams) >= 5
    for method in streams:
        answers, code, message = await _send(channel, method, b"", b"", b"\xff", b"")
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert "(message 2 of the stream, from 0)" in message
        assert len(answers) == (2 if method.server_streaming else 0)


def _many_fields() -> Iterator[bytes]:
    images = pb.EmbedRequest.DESCRIPTOR.fields_by_name["images"].number
    yield bytes([images << 3 | 2, 0]) * 1_000_000
    yield pb.EmbedRequest(images=[{"landmarks": [{}] * 100_000}]).SerializeToString()
    # Fields that the message does not have.
    yield b"\xf8\x06\x01" * 1_000_000


@pytest.mark.parametrize("data", list(_many_fields()), ids=["images", "nested", "unknown"])
def test_a_message_of_very_many_fields_is_refused_unparsed(data: bytes) -> None:
    with pytest.raises(InvalidInput, match=r"^request: has more than 20000 fields"):
        request_parser(pb.EmbedRequest, checked=True)(data)


def test_a_request_of_the_largest_pictures_is_not_refused() -> None:
    face = {"data": bytes(900_000), "landmarks": [{"x": 1, "y": 2}] * 5}
    data = pb.EmbedRequest(images=[face] * 64).SerializeToString()
    assert len(request_parser(pb.EmbedRequest, checked=True)(data).images) == 64


def test_deep_unknown_groups_are_refused_or_ignored() -> None:
    with pytest.raises(InvalidInput, match="cannot be parsed"):
        request_parser(pb.VerifyRequest, checked=True)(DEEP)
