"""Every method of the contract, every role and every kind of token, over TLS."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from magface.v1.access_pb2 import Role

from shared.rpc.access.rules import ROLE_NAMES, access_roles
from shared.rpc.channel import open_channel
from shared.rpc.retries import method_path, services
from shared.rpc.server.runner import running_server
from shared.settings import ClientSettings
from tests.shared.rpc.contract import contract, kind_of
from tests.shared.rpc.echo import LOCAL
from tests.support.certificates import Authority, Files
from tests.support.tokens import Issuer, bearer, expired, write_jwks

# Who may call what, written down apart from the contract. All other methods are the operator's.
MAY = {
    "client": {
        "EmbedderService": {"Embed", "EmbedStream", "Verify", "DetectFaces", "GetModel"},
    },
    "annotator": {
        "FeedbackService": {"SubmitFeedback", "SubmitFeedbackStream", "NextPairs", "GetImage"},
    },
    "labeller": {
        "FeedbackService": {
            "SubmitFeedback",
            "SubmitFeedbackStream",
            "NextPairs",
            "GetImage",
            "GetStats",
            "ImportImages",
        },
    },
    "trainer": {"FeedbackService": {"ExportPairs", "GetImage"}},
}
OPERATOR_MAY_NOT = {
    "EmbedderService": {"Embed", "EmbedStream", "Verify", "DetectFaces"},
    "FeedbackService": {"SubmitFeedback", "SubmitFeedbackStream", "NextPairs"},
}
METHODS = [method for service in services() for method in service.methods]
KINDS_OF_TOKEN = ("none", "expired", "wrong key", "wrong audience", "right")


def _may(role: str, method: MethodDescriptor) -> bool:
    service = method.containing_service.name
    if role == "operator":
        return method.name not in OPERATOR_MAY_NOT.get(service, set())
    return method.name in MAY[role].get(service, set())


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_every_method_says_who_may_call_it(method: MethodDescriptor) -> None:
    roles = access_roles(method)
    assert roles, f"{method.full_name} has no option (access), see access.proto"
    assert Role.ROLE_UNSPECIFIED not in roles
    names = {name for name, role in ROLE_NAMES.items() if role in roles}
    assert names == {name for name in ROLE_NAMES if _may(name, method)}


def _handler(method: MethodDescriptor) -> Any:
    answer = GetMessageClass(method.output_type)()

    async def one(_: Any, __: Any) -> Any:
        return answer

    async def many(_: Any, __: Any) -> AsyncIterator[Any]:
        yield answer

    return getattr(grpc, f"{kind_of(method)}_rpc_method_handler")(
        many if method.server_streaming else one,
        request_deserializer=None,
        response_serializer=type(answer).SerializeToString,
    )


async def _code(channel: grpc.aio.Channel, method: MethodDescriptor, metadata: Any) -> str:
    path = method_path(method)
    request: Any = [b""] if method.client_streaming else b""
    call = getattr(channel, kind_of(method))(path)(request, metadata=metadata, timeout=20)
    try:
        if method.server_streaming:
            assert [answer async for answer in call] == [b""]
        else:
            assert await call == b""
    except grpc.RpcError as error:
        assert isinstance(error, grpc.aio.AioRpcError)
        return error.code().name
    return "OK"


@asynccontextmanager
async def _served(folder: Path, issuer: Issuer) -> AsyncIterator[grpc.aio.Channel]:
    files = Files(folder / "service", Authority())
    settings = LOCAL.model_copy(
        update={**files.own(), "jwks": str(write_jwks(folder / "jwks.json", issuer))}
    )
    trusting = ClientSettings(tls_ca=files.ca)
    async with (
        running_server(settings, "magface.v1.EmbedderService", contract(_handler)) as address,
        open_channel(address, trusting) as channel,
    ):
        yield channel


async def test_who_may_call_a_method_may_and_nobody_else(tmp_path: Path) -> None:
    issuer, stranger = Issuer(), Issuer()
    wrong = []

    def metadata(kind: str, role: str) -> Any:
        match kind:
            case "none":
                return ()
            case "expired":
                return bearer(issuer.token(role, **expired()))
            case "wrong key":
                return bearer(stranger.token(role))
            case "wrong audience":
                return bearer(issuer.token(role, aud="another"))
            case _:
                return bearer(issuer.token(role))

    async with _served(tmp_path, issuer) as channel:
        for role, kind in product(ROLE_NAMES, KINDS_OF_TOKEN):
            shown = metadata(kind, role)
            codes = await asyncio.gather(*(_code(channel, one, shown) for one in METHODS))
            for method, code in zip(METHODS, codes, strict=True):
                right = "OK" if _may(role, method) else "PERMISSION_DENIED"
                expected = right if kind == "right" else "UNAUTHENTICATED"
                if code != expected:
                    wrong.append((method.full_name, role, kind, code))
    assert not wrong
    assert len(METHODS) >= 40


async def test_a_token_without_a_known_role_may_do_nothing(tmp_path: Path) -> None:
    issuer = Issuer()
    tokens = [issuer.token(), issuer.token("admin", "ROLE_OPERATOR"), issuer.token(roles=7)]
    async with _served(tmp_path, issuer) as channel:
        for token in tokens:
            codes = {await _code(channel, one, bearer(token)) for one in METHODS}
            assert codes == {"PERMISSION_DENIED"}


async def test_health_is_open_and_reflection_needs_any_role(tmp_path: Path) -> None:
    issuer = Issuer()
    async with _served(tmp_path, issuer) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = [reflection_pb2.ServerReflectionRequest(list_services="")]
        for token, code in (("annotator", None), ("", grpc.StatusCode.UNAUTHENTICATED)):
            shown = bearer(issuer.token(token)) if token else ()
            call = reflection.ServerReflectionInfo(iter(request), metadata=shown, timeout=20)
            try:
                answers = [answer.list_services_response async for answer in call]
                assert code is None
                names = {service.name for answer in answers for service in answer.service}
                assert "magface.v1.EmbedderService" in names
            except grpc.aio.AioRpcError as error:
                assert error.code() is code
