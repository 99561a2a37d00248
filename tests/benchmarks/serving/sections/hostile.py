"""One hostile caller: the memory of the embedder, and what another caller notices."""

import asyncio
from pathlib import Path
from statistics import quantiles

import grpc

from tests.benchmarks.progress import log
from tests.benchmarks.serving.load.measurement import Figures
from tests.benchmarks.serving.plan import Plan, machine
from tests.benchmarks.serving.servers.embedder import running_embedder
from tests.benchmarks.serving.servers.versions import BenchVersions
from tests.services.embedder.hostile_caller import ATTACKS, hostile_caller, verify_for
from tests.services.embedder.serving import Client
from tests.support.memory import MemoryWatch


def hostile(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Most memory and another caller's p99 during each attack, over its p99 before.

    The attacks are those of ``tests/services/embedder/test_hostile_callers.py``.
    """
    attacks = list(ATTACKS)[:2] if plan.quick else list(ATTACKS)
    with running_embedder(folder, [versions.iresnet18()]) as embedder:
        found = {}
        for name in attacks:
            memory = MemoryWatch(embedder.pid)
            measured = _p99s(embedder.address, name, folder, plan.slow_s, memory)
            found[name] = asyncio.run(measured) | {"most_bytes": memory.most}
            log(f"hostile, {name}: {found[name]}")
    return {
        "p99_ratio": max(each["p99_ratio"] for each in found.values()),
        "most_bytes": max(each["most_bytes"] for each in found.values()),
        "attacks": found,
        "machine": machine(),
    }


async def _p99s(
    address: str, name: str, folder: Path, seconds: float, memory: MemoryWatch
) -> dict[str, float]:
    async with grpc.aio.insecure_channel(address) as channel:
        client = Client(channel)
        await verify_for(client, 1)
        before = _p99_ms(await verify_for(client, seconds))
        with memory, hostile_caller(address, ATTACKS[name](), folder):
            during = _p99_ms(await verify_for(client, 2 * seconds))
    return {"before_ms": before, "during_ms": during, "p99_ratio": during / before}


def _p99_ms(took: list[float]) -> float:
    return 1000 * quantiles(took, n=100, method="inclusive")[98]
