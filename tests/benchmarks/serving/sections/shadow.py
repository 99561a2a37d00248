"""Delay of calls by the shadow evaluation of a candidate on all of them."""

import time
from itertools import islice
from pathlib import Path
from statistics import median

import grpc
from magface.v1 import embedder_pb2 as pb
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from tests.benchmarks.serving.load.connections import aligned_image
from tests.benchmarks.serving.load.images import faces, fresh
from tests.benchmarks.serving.load.measurement import Figures, alternate, ratio_of
from tests.benchmarks.serving.plan import Plan
from tests.benchmarks.serving.servers.embedder import Embedder, running_embedder
from tests.benchmarks.serving.servers.versions import BenchVersions
from tests.support.waiting import wait_until

_PAUSES_S = {"without_pause": 0.0, "with_pauses": 0.1}


def shadow(plan: Plan, folder: Path, versions: BenchVersions) -> Figures:
    """Median latency of Verify with a candidate over that without one, both iResNet-18.

    Without a pause between calls, most calls arrive while the candidate computes. With pauses of
    0.1 s the candidate has usually finished.
    """
    first = versions.iresnet18()
    candidate = versions.differing(first, "iresnet18-signs1", 1)
    settings = {"cache_bytes": "0", "shadow_share": "1.0"}
    with (
        running_embedder(folder, [first, candidate], **settings) as embedder,
        grpc.insecure_channel(embedder.address) as channel,
    ):
        caller = _Caller(EmbedderServiceStub(channel), embedder, candidate.name)
        caller.p50_ms("", 0.0, plan.warm_s)
        return {name: caller.compare(name, pause_s, plan) for name, pause_s in _PAUSES_S.items()}


class _Caller:
    def __init__(self, stub: EmbedderServiceStub, embedder: Embedder, candidate: str) -> None:
        self._stub = stub
        self._embedder = embedder
        self._candidate = candidate
        self._pictures = fresh(faces())

    def compare(self, name: str, pause_s: float, plan: Plan) -> Figures:
        before = self._evaluated()
        raw = alternate(
            {
                "shadow": lambda: self.p50_ms(self._candidate, pause_s, plan.slow_s),
                "none": lambda: self.p50_ms("", pause_s, plan.slow_s),
            },
            plan.rounds,
            f"shadow {name}",
        )
        evaluated = self._evaluated() - before
        return ratio_of(raw, "shadow", "none") | {"unit": "ms, p50", "tried": evaluated}

    def p50_ms(self, candidate: str, pause_s: float, seconds: float) -> float:
        """Measure one caller that waits `pause_s` between an answer and the next call."""
        self._embedder.registry.set_shadow(candidate)
        wait_until(lambda: self._ready(candidate), what=f"the shadow version {candidate!r}")
        took, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            took.append(self._verify())
            time.sleep(pause_s)
        return 1000 * median(took)

    def _ready(self, candidate: str) -> bool:
        if not candidate:
            return not self._shadow_version()
        before = self._evaluated()
        self._verify()
        return self._shadow_version() == candidate and self._evaluated() > before

    def _verify(self) -> float:
        a, b = (pb.VerifySide(image=aligned_image(jpeg)) for _, jpeg in islice(self._pictures, 2))
        started = time.perf_counter()
        self._stub.Verify(pb.VerifyRequest(a=a, b=b), timeout=60)
        return time.perf_counter() - started

    def _shadow_version(self) -> str:
        return str(self._stub.GetModel(pb.GetModelRequest(), timeout=10).shadow_version)

    def _evaluated(self) -> int:
        name = "magface_embedder_shadow_pairs_total"
        outcomes = ("agreed", "disagreed")
        return int(sum(self._embedder.metric(name, outcome=outcome) for outcome in outcomes))
