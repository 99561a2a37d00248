"""Overload at ten times the capacity, and many callers who cancel their calls."""

import threading
import time
from pathlib import Path
from statistics import median

import numpy as np

from shared.rpc.health import is_serving
from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.load.measurement import ClientProcess, Figures, LoadReport, run_load
from tests.benchmarks.serving.plan import CALLERS, Plan, machine
from tests.benchmarks.serving.servers.embedder import Embedder, running_embedder
from tests.benchmarks.serving.servers.versions import BenchVersions

_TIMES = 10
# One Python client process cannot send more; a quick run's network is faster than that.
_MOST_PER_SECOND = 800.0
_STORM_CALLERS = 48
# Less than the time of a full batch, so that most callers cancel while they wait.
_PATIENCE_S = (0.01, 0.1)
_EMBED = "/magface.v1.EmbedderService/Embed"


class _Monitor:
    """Thread that samples health and memory twice a second."""

    def __init__(self, embedder: Embedder) -> None:
        self.healthy: list[bool] = []
        self.rss: list[int] = []
        self._embedder = embedder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "_Monitor":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(0.5):
            self.healthy.append(is_serving(self._embedder.address, timeout_s=5.0))
            self.rss.append(self._embedder.rss_bytes)


def overload(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Send ten times the rate that 32 callers reach, without waiting for answers.

    The cache is off: its growth would look like a memory leak.
    """
    with running_embedder(folder, [versions.iresnet18()], cache_bytes="0") as embedder:
        address = Address("grpc", embedder.address)
        steady = [run_load(address, plan.warm_s + plan.slow_s) for _ in range(plan.rounds)]
        capacity = median(each.calls_per_second(plan.warm_s) for each in steady)
        options = {
            "rate": min(_TIMES * capacity, _MOST_PER_SECOND),
            "seconds": plan.overload_s,
        }
        with (
            ClientProcess(address, "fixed_rate", **options) as client,
            _Monitor(embedder) as monitor,
        ):
            seen = client.finish()
    return _overload_figures(capacity, steady, seen, monitor)


def _overload_figures(
    capacity: float, steady: list[LoadReport], seen: LoadReport, monitor: _Monitor
) -> Figures:
    steady_p99 = [_p99(each.took) for each in steady]
    refused = {code: count for code, count in seen.codes.items() if code != "OK"}
    # The first fifth fills the queue and the allocator's arenas; memory is stable after it.
    filled = monitor.rss[len(monitor.rss) // 5 :]
    return {
        "p99_ratio": _p99(seen.took) / median(steady_p99),
        "memory_growth": max(filled) / filled[0] - 1,
        "always_serving": all(monitor.healthy),
        "cache_bytes": 0,
        "offered_per_second": sum(seen.codes.values()) / (seen.stopped - seen.began),
        "carried_per_second": seen.calls_per_second(),
        "steady_per_second": capacity,
        "refused": refused,
        "refused_otherwise": sum(refused.values()) - refused.get("RESOURCE_EXHAUSTED", 0),
        "refused_without_retry_info": sum(seen.faults.values()),
        "raw": {
            "steady_p99_s": steady_p99,
            "overload_p99_s": _p99(seen.took),
            "overload_p50_s": median(seen.took),
            "health_checks": len(monitor.healthy),
            "rss_bytes": monitor.rss,
        },
        "machine": machine(),
    }


def cancel(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Share of the cancelled images that are computed, with 32 other callers who do not cancel.

    The queue is large enough for all calls: a refused call cannot be cancelled.
    """
    limits = {"max_images": str(2 * (CALLERS + _STORM_CALLERS))}
    with running_embedder(folder, [versions.iresnet18()], **limits) as embedder:
        address = Address("grpc", embedder.address)
        before = _Counts(embedder)
        storm = {"callers": _STORM_CALLERS, "patience_s": _PATIENCE_S, "seconds": plan.storm_s}
        with ClientProcess(address, "cancelling", **storm) as client:
            stayed = run_load(address, plan.storm_s)
            left = client.finish()
        time.sleep(3 * max(stayed.took))
        after = _Counts(embedder)
    cancelled = after.cancelled - before.cancelled
    answered = stayed.codes["OK"] + left.codes.get("OK", 0)
    wasted = after.computed - before.computed - answered
    return {
        "wasted_share": wasted / cancelled,
        "cancelled": cancelled,
        "wasted": wasted,
        "answered": answered,
        "stayed_per_second": stayed.calls_per_second(),
        "callers_who_leave": _STORM_CALLERS,
        "patience_s": _PATIENCE_S,
        "raw": {"left": left.codes, "stayed": stayed.codes},
        "machine": machine(),
    }


class _Counts:
    """The server's counters of computed images and cancelled calls."""

    def __init__(self, embedder: Embedder) -> None:
        self.computed = embedder.metric("magface_embedder_batch_images_sum")
        self.cancelled = embedder.metric("magface_rpc_calls_total", method=_EMBED, code="CANCELLED")


def _p99(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99))
