import asyncio
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest, RetryInfo
from grpc_status import rpc_status

from shared.errors import (
    AlreadyExists,
    Conflict,
    CorruptData,
    InvalidInput,
    MagFaceError,
    NotFound,
    Overloaded,
    PreconditionFailed,
    Unavailable,
)
from shared.rpc.channel import open_channel
from shared.rpc.errors import domain_errors
from shared.rpc.server.interceptors import Context
from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import running_server
from tests.shared.rpc.echo import KINDS, LOCAL, SERVICE, Act, call, echo
from tests.support.details import raises_with_details
from tests.support.processes import NOWHERE

STATUS: list[tuple[MagFaceError, grpc.StatusCode]] = [
    (InvalidInput("images[3].data", "is empty"), grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound("no such job"), grpc.StatusCode.NOT_FOUND),
    (AlreadyExists("the name is taken"), grpc.StatusCode.ALREADY_EXISTS),
    (PreconditionFailed("no detector"), grpc.StatusCode.FAILED_PRECONDITION),
    (Conflict("generation 7 came first"), grpc.StatusCode.ABORTED),
    (Overloaded("the queue is full", 0.25), grpc.StatusCode.RESOURCE_EXHAUSTED),
    (Unavailable("Datenbank heruntergefahren: später … 脸"), grpc.StatusCode.UNAVAILABLE),
    (CorruptData("model.onnx has another SHA-256"), grpc.StatusCode.DATA_LOSS),
]


@asynccontextmanager
async def _calling(act: Act) -> AsyncIterator[grpc.aio.Channel]:
    async with (
        running_server(LOCAL, SERVICE, echo(act)) as address,
        open_channel(address) as channel,
    ):
        yield channel


@asynccontextmanager
async def _failing(error: BaseException) -> AsyncIterator[grpc.aio.Channel]:
    async def act(request: bytes) -> bytes:
        if request == b"fail":
            raise error
        return request

    async with _calling(act) as channel:
        yield channel


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("error", "code"), STATUS, ids=lambda value: type(value).__name__)
async def test_each_error_has_its_status_in_each_kind_of_call(
    kind: str, error: MagFaceError, code: grpc.StatusCode
) -> None:
    async with _failing(error) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, kind, b"fail")
        assert (caught.value.code(), caught.value.details()) == (code, str(error))
        assert await call(channel, "unary_unary", b"next") == [b"next"]


@pytest.mark.parametrize("kind", KINDS)
async def test_the_caller_does_not_get_the_details_of_an_error(kind: str) -> None:
    error = Unavailable("the database cannot answer now", detail="db.internal:5432 in /srv/pg")
    async with _failing(error) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, kind, b"fail")
    assert caught.value.details() == "the database cannot answer now"
    assert "internal:" not in str(caught.value.trailing_metadata())


async def test_the_address_that_grpc_tried_is_no_part_of_the_message() -> None:
    async with open_channel(NOWHERE) as channel:
        with raises_with_details(Unavailable, match=NOWHERE), domain_errors():
            await call(channel, "unary_unary", b"x")


@pytest.mark.parametrize("error", [error for error, _ in STATUS], ids=lambda e: type(e).__name__)
async def test_client_gets_the_same_error_back(error: MagFaceError) -> None:
    async with _failing(error) as channel:
        with pytest.raises(type(error)) as caught, domain_errors():
            await call(channel, "unary_unary", b"fail")
    assert str(caught.value) == str(error)
    assert {k: v for k, v in vars(caught.value).items() if not k.startswith("__")} == vars(error)


async def test_invalid_input_carries_the_field_violation() -> None:
    async with _failing(InvalidInput("images[3].data", "is empty")) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "unary_unary", b"fail")
    violations = BadRequest()
    status = rpc_status.from_call(caught.value)
    assert status.details[0].Unpack(violations)
    assert violations.field_violations[0].field == "images[3].data"
    assert violations.field_violations[0].description == "is empty"


async def test_overload_carries_the_retry_delay() -> None:
    async with _failing(Overloaded("full", 1.5)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "unary_unary", b"fail")
    retry = RetryInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(retry)
    assert retry.retry_delay.ToNanoseconds() == 1_500_000_000


async def test_subclass_of_an_error_has_its_status() -> None:
    class NoSuchJob(NotFound):
        pass

    async with _failing(NoSuchJob("job 7")) as channel:
        with pytest.raises(NotFound, match="job 7"), domain_errors():
            await call(channel, "unary_unary", b"fail")


@pytest.mark.parametrize("kind", KINDS)
async def test_unforeseen_error_is_logged_under_the_reference_that_is_told(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with _failing(ZeroDivisionError("secret detail")) as channel:
        with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, kind, b"fail")
        assert await call(channel, "unary_unary", b"next") == [b"next"]
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    told = str(caught.value.details())
    assert "secret detail" not in told
    reference = re.search(r"reference ([0-9a-f]{8})", told)
    assert reference is not None
    assert reference[1] in caplog.text
    assert "ZeroDivisionError: secret detail" in caplog.text


async def test_answers_before_the_error_arrive() -> None:
    async with _failing(NotFound("the third")) as channel:
        stream = channel.unary_stream(f"/{SERVICE}/unary_stream")(b"1,2,fail,4")
        assert [await stream.read(), await stream.read()] == [b"1", b"2"]
        with pytest.raises(NotFound), domain_errors():
            await stream.read()


@pytest.mark.parametrize("letter", ["x", "ü", "脸"])
async def test_long_message_arrives_shortened(letter: str) -> None:
    async with _failing(InvalidInput("field", letter * 20_000)) as channel:
        with pytest.raises(InvalidInput) as caught, domain_errors():
            await call(channel, "unary_unary", b"fail")
    assert caught.value.field == "field"
    assert caught.value.reason.startswith(letter * 300)
    assert caught.value.reason.endswith("…")


async def test_cancelled_call_reaches_the_handler_and_is_no_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def act(request: bytes) -> bytes:
        started.set()
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return request

    async with _calling(act) as channel:
        for kind in KINDS:
            started.clear()
            cancelled.clear()
            task = asyncio.create_task(call(channel, kind, b"x"))
            await started.wait()
            task.cancel()
            await asyncio.wait_for(cancelled.wait(), 20)
    assert not [record for record in caplog.records if record.name.startswith("shared")]


async def test_late_answer_is_unavailable_to_the_client() -> None:
    async def act(request: bytes) -> bytes:
        await asyncio.sleep(30)
        return request

    async with _calling(act) as channel:
        with pytest.raises(Unavailable, match="deadline"), domain_errors():
            await call(channel, "unary_unary", b"x", wait_s=0.2)


async def test_message_above_the_limit_is_invalid_and_not_overload() -> None:
    async def act(request: bytes) -> bytes:
        return request

    small = LOCAL.model_copy(update={"max_message_bytes": 2**20})
    async with (
        running_server(small, SERVICE, echo(act)) as address,
        open_channel(address) as channel,
    ):
        with pytest.raises(InvalidInput, match="larger than max"), domain_errors():
            await call(channel, "unary_unary", b"x" * 2**21)
        assert await call(channel, "unary_unary", b"x") == [b"x"]


async def test_method_that_is_not_there_is_a_plain_error() -> None:
    async with _failing(NotFound("")) as channel:
        with pytest.raises(MagFaceError, match="UNIMPLEMENTED"), domain_errors():
            await channel.unary_unary(f"/{SERVICE}/other")(b"")


async def test_abort_of_a_handler_is_left_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    async def aborts(_: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "its own words")

    @asynccontextmanager
    async def build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        method = grpc.unary_unary_rpc_method_handler(aborts)
        handlers = grpc.method_handlers_generic_handler(SERVICE, {"unary_unary": method})
        server.add_generic_rpc_handlers([handlers])
        await lifecycle.set_ready(True)
        yield

    async with running_server(LOCAL, SERVICE, build) as address, open_channel(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(channel, "unary_unary", b"x")
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert caught.value.details() == "its own words"
    assert not [record for record in caplog.records if record.name.startswith("shared")]
