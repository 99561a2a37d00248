"""Ten times the load that it can carry, and a storm of callers who leave."""

import threading
import time
from pathlib import Path
from statistics import median

import numpy as np

from shared.rpc.health import is_serving
from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.load.measurement import Client, Figures, Sight, ask
from tests.benchmarks.serving.plan import CALLERS, Plan, machine
from tests.benchmarks.serving.servers.embedder import Embedder, running_embedder
from tests.benchmarks.serving.servers.versions import BenchVersions

_TIMES = 10
# More than that one client process of Python cannot send; the quick run's network is too fast.
_MOST_PER_SECOND = 800.0
_STORM_CALLERS = 48
# Less than the engine takes for a full batch, so that most of them leave while they wait.
_PATIENCE_S = (0.01, 0.1)
_EMBED = "/magface.v1.EmbedderService/Embed"


class _Watch:
    """Looks at health and memory twice a second, from a thread of its own."""

    def __init__(self, embedder: Embedder) -> None:
        self.healthy: list[bool] = []
        self.rss: list[int] = []
        self._embedder = embedder
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "_Watch":
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
    """Offer ten times what 32 callers get, at a rate that does not wait for answers.

    Nothing is cached, as a cache that fills would look like a leak.
    """
    with running_embedder(folder, [versions.iresnet18()], cache_bytes="0") as embedder:
        address = Address("grpc", embedder.address)
        steady = [ask(address, plan.warm_s + plan.slow_s) for _ in range(plan.rounds)]
        capacity = median(each.calls_per_second(plan.warm_s) for each in steady)
        order = {
            "rate": min(_TIMES * capacity, _MOST_PER_SECOND),
            "seconds": plan.overload_s,
        }
        with Client(address, "at_rate", **order) as client, _Watch(embedder) as watch:
            sight = client.finish()
    return _overload_figures(capacity, steady, sight, watch)


def _overload_figures(capacity: float, steady: list[Sight], sight: Sight, watch: _Watch) -> Figures:
    calm = [_p99(each.took) for each in steady]
    refused = {code: count for code, count in sight.codes.items() if code != "OK"}
    # The first fifth fills the queue and the arenas; after it nothing may grow.
    full = watch.rss[len(watch.rss) // 5 :]
    return {
        "p99_ratio": _p99(sight.took) / median(calm),
        "memory_growth": max(full) / full[0] - 1,
        "always_serving": all(watch.healthy),
        "cache_bytes": 0,
        "offered_per_second": sum(sight.codes.values()) / (sight.stopped - sight.began),
        "carried_per_second": sight.calls_per_second(),
        "steady_per_second": capacity,
        "refused": refused,
        "refused_otherwise": sum(refused.values()) - refused.get("RESOURCE_EXHAUSTED", 0),
        "refused_without_retry_info": sum(sight.flaws.values()),
        "raw": {
            "steady_p99_s": calm,
            "overload_p99_s": _p99(sight.took),
            "overload_p50_s": median(sight.took),
            "health_checks": len(watch.healthy),
            "rss_bytes": watch.rss,
        },
        "machine": machine(),
    }


def cancel(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Callers who leave, beside 32 who stay: how much of what nobody waits for is computed.

    All of them are let in, as a call that is refused has nothing to be cancelled.
    """
    room = {"max_images": str(2 * (CALLERS + _STORM_CALLERS))}
    with running_embedder(folder, [versions.iresnet18()], **room) as embedder:
        address = Address("grpc", embedder.address)
        before = _Counts(embedder)
        storm = {"callers": _STORM_CALLERS, "patience_s": _PATIENCE_S, "seconds": plan.storm_s}
        with Client(address, "leave_early", **storm) as client:
            stayed = ask(address, plan.storm_s)
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
    """The server's own counts of images computed and calls cancelled."""

    def __init__(self, embedder: Embedder) -> None:
        self.computed = embedder.metric("magface_embedder_batch_images_sum")
        self.cancelled = embedder.metric("magface_rpc_calls_total", method=_EMBED, code="CANCELLED")


def _p99(seconds: list[float]) -> float:
    return float(np.percentile(seconds, 99))
