"""Server interceptor that parses requests and runs guards around calls."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import grpc
from google.protobuf.message import Message

from shared.errors import InvalidInput
from shared.rpc.access.rate_limits import current_bucket
from shared.rpc.server.pacing import give_way
from shared.rpc.server.requests import Parse, request_parser

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    # Generic in its stubs only.
    Handler = grpc.RpcMethodHandler
Guard: TypeAlias = Callable[[Context], AbstractAsyncContextManager[None]]
GuardFactory: TypeAlias = Callable[[str], Guard]
Behaviour: TypeAlias = Callable[[Any, Context], Any]


class Receive(Protocol):
    """Receives the next message of a call, see `Uploads.read`."""

    async def __call__(
        self, context: Context, peer: str, *, streamed: bool, may_idle: bool
    ) -> bytes | None: ...


class CallGuard(AbstractAsyncContextManager[None]):
    """Guard that observes how one call ends.

    It is a class because a generator-based context manager adds microseconds to every call.
    """

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.ended(error)

    @abstractmethod
    async def ended(self, error: BaseException | None) -> None:
        """Handle the end of the call.

        Args:
            error: What the handler raised, which propagates afterwards; None if it succeeded.
        """


@dataclass(frozen=True)
class _GuardedHandler(Handler):
    request_streaming: bool
    response_streaming: bool
    request_deserializer: Any
    response_serializer: Any
    unary_unary: Any = None
    unary_stream: Any = None
    stream_unary: Any = None
    stream_stream: Any = None


class GuardInterceptor(grpc.aio.ServerInterceptor):
    """Receives and parses requests, and enters the guards for the duration of each call.

    There is only one interceptor because each one adds time to every call. A request that does
    not arrive, that cannot be parsed, or a unary request with an invalid text, raises its error
    inside the guards, and the handler does not run. A message of a stream that cannot be parsed
    raises InvalidInput where the handler iterates over the stream, and ends it. The handler of a
    stream checks the texts itself (`check_texts`), so that it can report an invalid message and
    continue with the stream.

    Args:
        receive: Receives the messages of all calls.
        guards: Make the guards of a method ``/package.Service/Name``, from the inside out; each is
            called once for a method.
    """

    def __init__(self, receive: Receive, *guards: GuardFactory) -> None:
        self._receive = receive
        self._make_guards = guards
        self._guarded: dict[str, tuple[Handler, Handler]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        known, guarded = self._guarded.get(method, (None, None))
        if guarded is None or known is not handler:
            guards = [make(method) for make in self._make_guards]
            guarded = _guarded(handler, self._receive, guards)
            self._guarded[method] = handler, guarded
        return guarded


def _guarded(handler: Handler, receive: Receive, guards: Sequence[Guard]) -> Handler:
    """Make the handler of a method that receives its requests itself.

    gRPC receives the request of a unary method before it calls the handler, so that nothing could
    end an upload. To gRPC all our methods have a stream of requests; on the wire it is the same.
    """
    response = "stream" if handler.response_streaming else "unary"
    request = "stream" if handler.request_streaming else "unary"
    behaviour = getattr(handler, f"{request}_{response}")
    generates = isasyncgenfunction(behaviour)
    parse = _parser(handler.request_deserializer, checked=not handler.request_streaming)
    if handler.request_streaming:
        behaviour = _with_requests(behaviour, receive, parse, may_idle=handler.response_streaming)
    elif generates:
        behaviour = _with_request_streaming(behaviour, receive, parse)
    else:
        behaviour = _with_request(behaviour, receive, parse)
    for guard in guards:
        behaviour = _around(behaviour, guard, generates=generates)
    return _GuardedHandler(
        True,
        handler.response_streaming,
        None,
        handler.response_serializer,
        **{f"stream_{response}": behaviour},
    )


def _parser(deserializer: Any, *, checked: bool) -> Parse[Any]:
    message = _message_type(deserializer)
    if message is None:
        return lambda data, _=None: deserializer(data) if deserializer else data
    return request_parser(message, checked=checked)


def _message_type(deserializer: Any) -> type[Message] | None:
    """Return the message type whose ``FromString`` a deserializer is, as in generated code."""
    owner = getattr(deserializer, "__self__", None)
    return owner if isinstance(owner, type) and issubclass(owner, Message) else None


async def _receive_one(receive: Receive, parse: Parse[Any], context: Context) -> Any:
    data = await receive(context, context.peer(), streamed=False, may_idle=False)
    if data is None:
        raise InvalidInput("request", "is missing: the call has no message")
    size, request = len(data), parse(data, None)
    # The message is not kept beside the request.
    del data
    await give_way(size)
    return request


def _with_request(behaviour: Behaviour, receive: Receive, parse: Parse[Any]) -> Behaviour:
    async def call(_: Any, context: Context) -> Any:
        return await behaviour(await _receive_one(receive, parse, context), context)

    return call


def _with_request_streaming(behaviour: Behaviour, receive: Receive, parse: Parse[Any]) -> Behaviour:
    async def stream(_: Any, context: Context) -> AsyncIterator[Any]:
        request = await _receive_one(receive, parse, context)
        async with aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    return stream


def _with_requests(
    behaviour: Behaviour, receive: Receive, parse: Parse[Any], *, may_idle: bool
) -> Behaviour:
    async def requests(context: Context, peer: str) -> AsyncIterator[Any]:
        bucket = current_bucket()
        for index in count():
            # The first message is counted with the call.
            if bucket is not None and index:
                await bucket.take_in_turn()
            data = await receive(context, peer, streamed=True, may_idle=may_idle)
            if data is None:
                return
            request = parse(data, index)
            # While the stream waits for the next message it holds none.
            del data
            yield request
            del request

    def call(_: Any, context: Context) -> Any:
        # Asked once, as the call begins: gRPC crashed when a cancelled call was asked for its peer.
        return behaviour(requests(context, context.peer()), context)

    return call


def _around(behaviour: Callable[..., Any], guard: Guard, *, generates: bool) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        async with guard(context):
            return await behaviour(request, context)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        async with guard(context), aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    return stream if generates else call
