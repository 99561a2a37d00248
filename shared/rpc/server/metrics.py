"""Prometheus metrics of the calls of a gRPC server."""

import time
from functools import partial

import grpc
from prometheus_client import Counter, Gauge, Histogram

from shared.rpc.server.interceptors import CallGuard, Context, Guard

CALLS = Counter("magface_rpc_calls", "Calls that have ended", ["method", "code"])
SECONDS = Histogram(
    "magface_rpc_duration_seconds",
    "Duration of calls in seconds, to the end of the response",
    ["method"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600),
)
IN_FLIGHT = Gauge("magface_rpc_in_flight", "Calls that are being handled now", ["method"])


def call_metrics(method: str) -> Guard:
    """Make the guard that measures the calls of a method; it goes around `error_status`."""
    return partial(_CallMetrics, method, SECONDS.labels(method), IN_FLIGHT.labels(method))


class _CallMetrics(CallGuard):
    def __init__(self, method: str, seconds: Histogram, in_flight: Gauge, context: Context) -> None:
        self._method = method
        self._seconds = seconds
        self._in_flight = in_flight
        self._context = context
        self._started = 0.0

    async def __aenter__(self) -> None:
        self._started = time.perf_counter()
        self._in_flight.inc()

    async def ended(self, error: BaseException | None) -> None:
        self._in_flight.dec()
        self._seconds.observe(time.perf_counter() - self._started)
        CALLS.labels(self._method, self._code(error)).inc()

    def _code(self, error: BaseException | None) -> str:
        if error is None:
            return "OK"
        return _code_name(self._context) if isinstance(error, Exception) else "CANCELLED"


def _code_name(context: Context) -> str:
    code = context.code()
    return code.name if isinstance(code, grpc.StatusCode) else "UNKNOWN"
