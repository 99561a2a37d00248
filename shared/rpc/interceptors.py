"""The interceptor that puts guards around each call, whatever its kind."""

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from inspect import isasyncgenfunction
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import grpc

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
if TYPE_CHECKING:
    Handler: TypeAlias = grpc.RpcMethodHandler[Any, Any]
else:
    # Generic in its stubs only.
    Handler = grpc.RpcMethodHandler
Guard: TypeAlias = Callable[[Context], AbstractAsyncContextManager[None]]


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
    """Enters guards for the length of each call: one interceptor, as each costs every call time.

    Args:
        guards: The innermost first. Each makes the guard of a method, given as
            ``/package.Service/Name``; once a method.
    """

    def __init__(self, *guards: Callable[[str], Guard]) -> None:
        self._guards = guards
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
            guarded = handler
            for guard in self._guards:
                guarded = _guarded(guarded, guard(method))
            self._guarded[method] = handler, guarded
        return guarded


def _guarded(handler: Handler, guard: Guard) -> Handler:
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
