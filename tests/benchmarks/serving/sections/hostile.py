"""One hostile caller: the memory of the embedder, and what another caller notices."""

import asyncio
from pathlib import Path
from statistics import quantiles

import grpc

from tests.benchmarks.progress import log
from tests.benchmarks.serving.load.measurement import Figures
from tests.benchmarks.serving.plan import Plan, machine
from tests.benchmarks.serving.servers.embedder import Embedder, running_embedder
from tests.benchmarks.serving.servers.versions import BenchVersions
from tests.default_version import export_default
from tests.services.embedder.hostile_caller import ATTACKS, hostile_caller, verify_for
from tests.services.embedder.serving import Client
from tests.support.memory import MemoryWatch


def hostile(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Most memory and another caller's p99 during each attack, over its p99 before.

    The attacks are those of ``tests/services/embedder/test_hostile_callers.py``, with the bundled
    network. Each is also sent to a second embedder, which shows what the caller notices because
    others use the processors.
    """
    del versions
    attacks = list(ATTACKS)[:2] if plan.quick else list(ATTACKS)
    version = folder / "iresnet18w16-default"
    default = [version if version.exists() else export_default(version)]
    found = {}
    with (
        running_embedder(folder, default) as embedder,
        running_embedder(folder / "second", default) as second,
    ):
        for name in attacks:
            found[name] = asyncio.run(_attack(embedder, second, name, folder, plan.slow_s))
            log(f"hostile, {name}: {found[name]}")
    return {
        "p99_ratio": max(each["p99_ratio"] for each in found.values()),
        "most_bytes": max(each["most_bytes"] for each in found.values()),
        "attacks": found,
        "machine": machine(),
    }


async def _attack(
    ours: Embedder, second: Embedder, name: str, folder: Path, seconds: float
) -> dict[str, float]:
    async with grpc.aio.insecure_channel(ours.address) as channel:
        client = Client(channel)
        await verify_for(client, 1)
        before = _p99_ms(await verify_for(client, seconds))
        with hostile_caller(second.address, ATTACKS[name](), folder):
            beside = _p99_ms(await verify_for(client, seconds))
        memory = MemoryWatch(ours.pid)
        with memory, hostile_caller(ours.address, ATTACKS[name](), folder):
            during = _p99_ms(await verify_for(client, seconds))
    return {
        "before_ms": before,
        "second_attacked_ms": beside,
        "during_ms": during,
        "p99_ratio": during / before,
        "most_bytes": memory.most,
    }


def _p99_ms(took: list[float]) -> float:
    return 1000 * quantiles(took, n=100, method="inclusive")[98]
