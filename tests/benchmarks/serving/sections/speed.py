"""Speed with iResNet-18: throughput and latency against the bare engine, and cache hits."""

from pathlib import Path
from statistics import median

from shared.model.manifest import ONNX_FILE
from tests.benchmarks.serving.load.connections import Address
from tests.benchmarks.serving.load.measurement import Figures, alternate, ratio_of, run_load
from tests.benchmarks.serving.plan import Plan
from tests.benchmarks.serving.servers.bare_engine import BareEngine
from tests.benchmarks.serving.servers.embedder import Embedder, running_embedder
from tests.benchmarks.serving.servers.versions import BenchVersions


def engine(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Throughput of Embed with 32 callers, over the bare engine at its best batch size."""
    network = versions.iresnet18()
    bare = BareEngine(network / ONNX_FILE)
    batch, by_batch = bare.best_batch(plan.fast_s)
    with running_embedder(folder, [network]) as embedder:
        address = Address("grpc", embedder.address)
        before = _batches(embedder)
        raw = alternate(
            {
                "ours": lambda: _calls(address, plan),
                "bare": lambda: bare.images_per_second(batch, plan.slow_s),
            },
            plan.rounds,
            "engine",
        )
        images, batches = (now - then for now, then in zip(_batches(embedder), before, strict=True))
    return ratio_of(raw, "ours", "bare") | {
        "unit": "images/s",
        "best_batch": batch,
        "bare_by_batch": by_batch,
        "mean_batch_of_ours": images / batches,
    }


def latency(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Median latency of one caller, over decoding plus one run of the bare engine."""
    network = versions.iresnet18()
    bare = BareEngine(network / ONNX_FILE)
    with running_embedder(folder, [network]) as embedder:
        address = Address("grpc", embedder.address)
        raw = alternate(
            {
                "ours": lambda: 1000 * median(run_load(address, plan.slow_s, callers=1).took),
                "bare": lambda: bare.decode_and_run_ms(plan.slow_s),
            },
            plan.rounds,
            "latency",
        )
    return ratio_of(raw, "ours", "bare") | {"unit": "ms, p50"}


def cache(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Calls per second with 64 repeated images, over images that are new in each call."""
    with running_embedder(folder, [versions.iresnet18()]) as embedder:
        address = Address("grpc", embedder.address)
        run_load(address, plan.warm_s, repeat=True)
        raw = alternate(
            {
                "repeated": lambda: run_load(address, plan.fast_s, repeat=True).calls_per_second(),
                "fresh": lambda: _calls(address, plan),
            },
            plan.rounds,
            "cache",
        )
    return ratio_of(raw, "repeated", "fresh") | {"unit": "calls/s"}


def _calls(address: Address, plan: Plan) -> float:
    return run_load(address, plan.warm_s + plan.slow_s).calls_per_second(plan.warm_s)


def _batches(embedder: Embedder) -> tuple[float, float]:
    name = "magface_embedder_batch_images"
    return embedder.metric(f"{name}_sum"), embedder.metric(f"{name}_count")
