"""Server interceptor that parses requests and runs guards around calls."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc
from google.protobuf.message import Message

from shared.rpc.server.requests import request_parser

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    # Generic in its stubs only.
    Handler = grpc.RpcMethodHandler
Guard: TypeAlias = Callable[[Context], AbstractAsyncContextManager[None]]
GuardFactory: TypeAlias = Callable[[str], Guard]


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
    """Parses requests and enters the guards for the duration of each call.

    There is only one interceptor because each one adds time to every call. A request that cannot
    be parsed, or a unary request with an invalid text, raises InvalidInput inside the guards, and
    the handler does not run. The handler of a stream checks the texts itself (`check_texts`), so
    that it can report an invalid message and continue with the stream.

    Args:
        innermost: Makes the innermost guard of a method ``/package.Service/Name``; it is called
            once for each method.
        outer: Make the guards around it, from the inside out.
    """

    def __init__(self, innermost: GuardFactory, *outer: GuardFactory) -> None:
        self._make_guards = (innermost, *outer)
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
            guarded = _guarded(handler, [make(method) for make in self._make_guards])
            self._guarded[method] = handler, guarded
        return guarded


def _guarded(handler: Handler, guards: Sequence[Guard]) -> Handler:
    kind = (
        f"{'stream' if handler.request_streaming else 'unary'}_"
        f"{'stream' if handler.response_streaming else 'unary'}"
    )
    behaviour = getattr(handler, kind)
    generates = isasyncgenfunction(behaviour)
    deserializer = handler.request_deserializer
    if (message := _message_type(deserializer)) is not None:
        if handler.request_streaming:
            # An exception of the parser is raised where the handler iterates over the stream.
            deserializer = request_parser(message, checked=False)
        else:
            behaviour = _parsing(behaviour, request_parser(message, checked=True))
            deserializer = None
    for guard in guards:
        behaviour = _around(behaviour, guard, generates=generates)
    return _GuardedHandler(
        handler.request_streaming,
        handler.response_streaming,
        deserializer,
        handler.response_serializer,
        **{kind: behaviour},
    )


def _message_type(deserializer: Any) -> type[Message] | None:
    """Return the message type whose ``FromString`` a deserializer is, as in generated code."""
    owner = getattr(deserializer, "__self__", None)
    return owner if isinstance(owner, type) and issubclass(owner, Message) else None


def _parsing(behaviour: Callable[..., Any], read: Callable[[bytes], Message]) -> Callable[..., Any]:
    def call(request: bytes, context: Context) -> Any:
        return behaviour(read(request), context)

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
