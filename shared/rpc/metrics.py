"""Counts and times the calls of a gRPC server for Prometheus."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from prometheus_client import Counter, Gauge, Histogram

from shared.rpc.handlers import Context, Handler, guarded

CALLS = Counter("magface_rpc_calls", "Calls that ended", ["method", "code"])
SECONDS = Histogram(
    "magface_rpc_duration_seconds",
    "From the first byte handled to the end of the answer",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
IN_FLIGHT = Gauge("magface_rpc_in_flight", "Calls being handled now", ["method"])


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Measures each call; goes outside of the interceptor that sets the status."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        return guarded(handler, lambda context: _measured(method, context))


@asynccontextmanager
async def _measured(method: str, context: Context) -> AsyncIterator[None]:
    started = time.perf_counter()
    code = "CANCELLED"
    with IN_FLIGHT.labels(method).track_inprogress():
        try:
            yield
            code = "OK"
        except Exception:
            code = _code_name(context)
            raise
        finally:
            CALLS.labels(method, code).inc()
            SECONDS.labels(method).observe(time.perf_counter() - started)


def _code_name(context: Context) -> str:
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
