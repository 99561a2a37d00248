"""Errors of the Python client, and which calls it repeats."""

import time
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from magface_client import (
    AbortedError,
    Access,
    AlreadyExistsError,
    AsyncClient,
    Client,
    ClientError,
    DeadlineError,
    FailedPreconditionError,
    InvalidArgumentError,
    NotFoundError,
    OverloadedError,
    PermissionDeniedError,
    ServiceError,
    UnauthenticatedError,
    UnavailableError,
    channels,
    methods,
)

from tests.clients.scripted_server import ScriptedServer, scripted_server

Code = grpc.StatusCode
KINDS = {
    Code.INVALID_ARGUMENT: InvalidArgumentError,
    Code.OUT_OF_RANGE: InvalidArgumentError,
    # Without RetryInfo: gRPC refused a message that is too large.
    Code.RESOURCE_EXHAUSTED: InvalidArgumentError,
    Code.NOT_FOUND: NotFoundError,
    Code.ALREADY_EXISTS: AlreadyExistsError,
    Code.FAILED_PRECONDITION: FailedPreconditionError,
    Code.ABORTED: AbortedError,
    Code.UNAUTHENTICATED: UnauthenticatedError,
    Code.PERMISSION_DENIED: PermissionDeniedError,
    Code.UNAVAILABLE: UnavailableError,
    Code.DEADLINE_EXCEEDED: DeadlineError,
}
CODES = [code for code in Code if code is not Code.OK]


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_FIRST_PAUSE_S", 0.001)


@pytest.fixture
def server() -> Iterator[tuple[ScriptedServer, str]]:
    with scripted_server() as (server, port):
        yield server, f"127.0.0.1:{port}"


def _retry_after(seconds: float) -> RetryInfo:
    delay = Duration()
    delay.FromMilliseconds(int(seconds * 1000))
    return RetryInfo(retry_delay=delay)


@pytest.mark.parametrize("code", CODES, ids=lambda code: code.name)
async def test_each_status_has_its_error(server: tuple[ScriptedServer, str], code: Code) -> None:
    script, address = server
    script.failures = [(code, "as it is", None)] * 12
    expected = 6 if code is Code.UNAVAILABLE else 1
    with Client(embedder=address, access=Access()) as client:
        with pytest.raises(ServiceError) as blocking:
            client.model()
        assert len(script.calls) == expected
    async with AsyncClient(embedder=address, access=Access()) as client:
        with pytest.raises(ServiceError) as awaited:
            await client.model()
        assert len(script.calls) == 2 * expected
    for caught in (blocking, awaited):
        assert type(caught.value) is KINDS.get(code, ServiceError)
        assert not isinstance(caught.value, grpc.RpcError)
        assert isinstance(caught.value, ClientError)
        assert (caught.value.code, caught.value.reason) == (code.name, "as it is")
        assert address in str(caught.value)


def test_the_field_is_named(server: tuple[ScriptedServer, str]) -> None:
    script, address = server
    violation = BadRequest.FieldViolation(field="a.image.data", description="is empty")
    detail = BadRequest(field_violations=[violation])
    script.failures = [(Code.INVALID_ARGUMENT, "a.image.data is empty", detail)]
    with (
        Client(embedder=address, access=Access()) as client,
        pytest.raises(InvalidArgumentError, match=r"a\.image\.data is empty") as caught,
    ):
        client.model()
    assert caught.value.field == "a.image.data"


def test_a_busy_service_is_called_again_when_it_says(server: tuple[ScriptedServer, str]) -> None:
    script, address = server
    script.failures = [(Code.RESOURCE_EXHAUSTED, "busy", _retry_after(0.3))]
    begin = time.monotonic()
    with Client(embedder=address, access=Access()) as client:
        client.model()
        assert time.monotonic() - begin >= 0.3
        assert len(script.calls) == 2
        script.failures = [(Code.RESOURCE_EXHAUSTED, "busy", _retry_after(60))]
        with pytest.raises(OverloadedError) as caught:
            client.model(timeout_s=20)
    assert caught.value.retry_after_s == 60
    assert len(script.calls) == 3


def test_a_label_is_sent_again_with_its_key(
    server: tuple[ScriptedServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    script, address = server
    sent = []
    monkeypatch.setattr(ScriptedServer, "_answer", _recording(sent, ScriptedServer._answer))
    script.failures = [(Code.UNAVAILABLE, "down", None)] * 2
    with Client(feedback=address, access=Access()) as client:
        receipt = client.feedback(b"a", b"b", "same", annotator="anna")
    assert len(sent) == 3
    assert len(set(sent)) == 1
    assert receipt.idempotency_key.encode() in sent[0]


def _recording(sent, answer):
    def record(self, request, context):
        sent.append(request)
        return answer(self, request, context)

    return record


def test_only_what_is_safe_is_repeated() -> None:
    known = [one for one in vars(methods).values() if isinstance(one, methods.Method)]
    assert len(known) >= 16
    for method in known:
        request = method.request()
        keyed = "idempotency_key" in request.DESCRIPTOR.fields_by_name
        assert method.may_be_repeated(request) is not keyed
        if keyed:
            request.idempotency_key = "key"
            assert method.may_be_repeated(request)


def test_the_timeout_is_for_all_tries(
    server: tuple[ScriptedServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_FIRST_PAUSE_S", 0.2)
    script, address = server
    script.failures = [(Code.UNAVAILABLE, "down", None)] * 12
    begin = time.monotonic()
    with Client(embedder=address, access=Access()) as client, pytest.raises(UnavailableError):
        client.model(timeout_s=0.5)
    assert time.monotonic() - begin < 1.5
    assert 2 <= len(script.calls) < 5
