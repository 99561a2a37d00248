"""Latency of the service's reads, and memory of an export."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import psutil
import psycopg
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from shared.rpc.channel import open_channel
from tests.benchmarks.progress import log
from tests.services.feedback.support.stack import FeedbackStack

Stub = feedback_pb2_grpc.FeedbackServiceStub

# Pairs of images that have no labels yet.
_CANDIDATES = """
INSERT INTO feedback.candidates (image_a, image_b, strategy, score, wanted)
SELECT least(a, b), greatest(a, b),
       (ARRAY['uncertainty', 'hard', 'disagreement', 'random'])[1 + n %% 4]::feedback.strategy,
       (n * 7919 %% 10007) / 10007.0, 2
FROM (SELECT n, sha256((1 + n %% %(images)s)::text::bytea) AS a,
             sha256((1 + (n + 7 + n / %(images)s) %% %(images)s)::text::bytea) AS b
      FROM generate_series(1, %(candidates)s) AS n) AS drawn
WHERE a <> b ON CONFLICT DO NOTHING
"""


async def measure_latency(parts: FeedbackStack, stored: int, calls: int) -> dict[str, Any]:
    """Time sequential calls, and an export of all pairs."""
    images = stored // 10
    # Enough for the last annotator to get as many as the first.
    candidates = {"images": images, "candidates": min(20 * calls + 2000, 20 * images)}
    with psycopg.connect(parts.database_url, autocommit=True) as connection:
        connection.execute(_CANDIDATES, candidates)
        connection.execute("VACUUM ANALYZE feedback.candidates")
    leased: list[int] = []

    async def next_pairs(turn: int) -> None:
        request = pb.NextPairsRequest(annotator=f"asker-{turn}", count=10)
        leased.append(len((await stub.NextPairs(request)).pairs))

    async with open_channel(parts.service.address) as channel:
        stub = Stub(channel)
        measured: dict[str, Any] = {
            "get_stats": await _time(calls, lambda _: stub.GetStats(pb.GetStatsRequest())),
            "list_pairs": await _time(calls, lambda _: stub.ListPairs(pb.ListPairsRequest())),
            "next_pairs": await _time(calls, next_pairs),
            "export_pairs": await _export(stub, parts.service.pid or 0),
        }
    measured["next_pairs"]["pairs_handed"] = sum(leased)
    log(f"latency at {stored} labels: done")
    return measured


async def _time(calls: int, call: Callable[[int], Awaitable[object]]) -> dict[str, float]:
    for turn in range(10):
        await call(turn)
    seconds = []
    for turn in range(calls):
        start = time.perf_counter()
        await call(turn)
        seconds.append(time.perf_counter() - start)
    p50, p95 = np.percentile(np.array(seconds) * 1000, [50, 95])
    return {"p50_ms": float(p50), "p95_ms": float(p95)}


async def _export(stub: Stub, pid: int) -> dict[str, float]:
    """Measure the second export: the first one also allocates memory that stays in use."""
    await _drain(stub)
    process = psutil.Process(pid)
    before = process.memory_info().rss
    highest = before

    async def watch() -> None:
        nonlocal highest
        while True:
            highest = max(highest, process.memory_info().rss)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    start = time.perf_counter()
    pairs = await _drain(stub)
    seconds = time.perf_counter() - start
    watching.cancel()
    return {
        "pairs": pairs,
        "pairs_per_second": pairs / seconds,
        "rss_mib": highest / 2**20,
        "rss_growth_mib": (highest - before) / 2**20,
    }


async def _drain(stub: Stub) -> int:
    return sum([len(part.pairs) async for part in stub.ExportPairs(pb.ExportPairsRequest())])
