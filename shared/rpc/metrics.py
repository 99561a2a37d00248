"""Counts and times the calls of a gRPC server for Prometheus."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from prometheus_client import Counter, Gauge, Histogram

from shared.rpc.handlers import Context, Guard, GuardInterceptor

CALLS = Counter("magface_rpc_calls", "Calls that ended", ["method", "code"])
SECONDS = Histogram(
    "magface_rpc_duration_seconds",
    "From the first byte handled to the end of the answer",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
IN_FLIGHT = Gauge("magface_rpc_in_flight", "Calls being handled now", ["method"])


class MetricsInterceptor(GuardInterceptor):
    """Measures each call; goes outside of the interceptor that sets the status."""

    def guard(self, method: str) -> Guard:
        seconds, in_flight = SECONDS.labels(method), IN_FLIGHT.labels(method)

        @asynccontextmanager
        async def measured(context: Context) -> AsyncIterator[None]:
            started = time.perf_counter()
            in_flight.inc()
            code = "CANCELLED"
            try:
                yield
                code = "OK"
            except Exception:
                code = _code_name(context)
                raise
            finally:
                in_flight.dec()
                seconds.observe(time.perf_counter() - started)
                CALLS.labels(method, code).inc()

        return measured


def _code_name(context: Context) -> str:
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
