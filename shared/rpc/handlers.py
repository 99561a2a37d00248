"""Puts a guard around the calls of a gRPC method, whatever its kind."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    # Generic in its stubs only.
    Handler = grpc.RpcMethodHandler
Guard: TypeAlias = Callable[[Context], AbstractAsyncContextManager[None]]


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


def guarded(handler: Handler, guard: Guard) -> Handler:
    """Return a handler that enters ``guard(context)`` for the length of each call."""
    kind = (
        f"{'stream' if handler.request_streaming else 'unary'}_"
        f"{'stream' if handler.response_streaming else 'unary'}"
    )
    return _GuardedHandler(
        handler.request_streaming,
        handler.response_streaming,
        handler.request_deserializer,
        handler.response_serializer,
        **{kind: _around(getattr(handler, kind), guard)},
    )


def _around(behaviour: Callable[..., Any], guard: Guard) -> Callable[..., Any]:
    async def call(request: Any, context: Context) -> Any:
        async with guard(context):
            return await behaviour(request, context)

    async def stream(request: Any, context: Context) -> AsyncIterator[Any]:
        async with guard(context), aclosing(behaviour(request, context)) as responses:
            async for response in responses:
                yield response

    return stream if isasyncgenfunction(behaviour) else call
