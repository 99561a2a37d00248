"""The interceptor that reads each request and puts guards around each call."""

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
MakeGuard: TypeAlias = Callable[[str], Guard]


class CallGuard(AbstractAsyncContextManager[None]):
    """Sees how one call ends. A class, as a generator would cost every call microseconds."""

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
        """Called with what the handler raised, which is raised on, or None."""


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
    """Reads requests and enters guards for the length of each call.

    One interceptor, as each costs every call time. A request that cannot be parsed, or a unary
    one with a text that breaks its rule, raises InvalidInput inside the guards, and its handler
    does not run. Texts in a stream are checked by its handler (`check_texts`), which may answer
    the fault of one message and go on.

    Args:
        innermost: Makes the guard of a method, given as ``/package.Service/Name``; once a method.
        outer: The same for the guards around it.
    """

    def __init__(self, innermost: MakeGuard, *outer: MakeGuard) -> None:
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
            # What it raises reaches the handler where that iterates.
            deserializer = request_parser(message, checked=False)
        else:
            behaviour = _reading(behaviour, request_parser(message, checked=True))
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
    """Say of what protobuf message this is the ``FromString``, as in generated code."""
    owner = getattr(deserializer, "__self__", None)
    return owner if isinstance(owner, type) and issubclass(owner, Message) else None


def _reading(behaviour: Callable[..., Any], read: Callable[[bytes], Message]) -> Callable[..., Any]:
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
