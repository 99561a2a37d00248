"""Prometheus metrics of decoding."""

from typing import Final

from prometheus_client import Counter, Histogram

PROCESSES_ENDED: Final = Counter(
    "magface_decode_processes_ended_total",
    "Decode processes that ended before their picture was decoded, by reason",
    ["reason"],
)
SECONDS: Final = Histogram(
    "magface_decode_seconds",
    "Time a decode process took for one picture",
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10),
)
REFUSED: Final = Counter(
    "magface_refused_calls_total",
    "Calls refused because the server was full, its pixels were spent, or the call had too many",
    ["reason"],
)
