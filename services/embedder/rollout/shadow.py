"""Shadow evaluation of a candidate version on a sample of live traffic."""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.embedding.verification import Side, Verdict
from services.embedder.models.decision_rule import DecisionRule, FmrTarget
from services.embedder.models.malloc import release
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.models.version_threads import Cancellation, Hanging, VersionThreads
from services.embedder.rollout.retries import describe_failure, retry_pause_s
from shared.decoding.pool import DecodePool
from shared.errors import MagFaceError
from shared.model.image.face import FaceImage
from shared.model.sessions.base import split_features
from shared.registry.shadow_pointer import ShadowPointer
from shared.runtime import repeat

_log = logging.getLogger(__name__)
_QUEUED_PAIRS: Final = 16
# Queued pictures stay in memory, so pairs of large ones are dropped.
_MAX_PAIR_BYTES: Final = 4 * 2**20
# Longer than one image takes on a thread of low priority beside a full load.
_EMBED_LIMIT_S: Final = 60.0


@dataclass(frozen=True)
class ShadowStats:
    """A candidate's decisions on live comparisons, against those of the serving version.

    Attributes:
        model_version: The candidate; empty when there is none.
        pairs: Comparisons that both versions decided.
        agreed: Comparisons with the same decision, each version at its threshold at the operating
            point in force.
        similarity_shift: Mean of the candidate's similarity minus the serving version's.
        error: The last error of loading or computing; empty when there was none.
    """

    model_version: str = ""
    pairs: int = 0
    agreed: int = 0
    similarity_shift: float = 0.0
    error: str = ""

    @property
    def agreement(self) -> float:
        """Share of equal decisions, 0..1; 0 before the first pair."""
        return self.agreed / self.pairs if self.pairs else 0.0


@dataclass(frozen=True, slots=True)
class _Baseline:
    """What a candidate is compared with: the serving version at the operating point in force."""

    version: str | None = None
    target: FmrTarget | None = None


def _baseline_of(verdict: Verdict) -> _Baseline:
    return _Baseline(verdict.model_version, verdict.rule.target)


@dataclass(frozen=True, slots=True)
class _Pair:
    a: FaceImage
    b: FaceImage
    verdict: Verdict


class ShadowEvaluator:
    """Evaluates the version that the registry's shadow pointer names.

    No request waits for it. A pair is queued or dropped, and each image is computed on a thread of
    low priority, while no request is in flight.

    Args:
        models: Gives the serving version.
        pool: Decodes and aligns the faces.
        load: Loads a version.
        idle: Set while no request is in flight.
        share: Share of the comparisons that are evaluated, 0..1.
        threads: Run the network.
    """

    def __init__(
        self,
        models: ResidentModels,
        pool: DecodePool,
        load: Callable[[str], Awaitable[LoadedModel]],
        idle: asyncio.Event,
        share: float,
        *,
        threads: VersionThreads,
    ) -> None:
        self._models = models
        self._pool = pool
        self._load = load
        self._idle = idle
        self._share = share
        self._threads = threads
        self._queue: asyncio.Queue[_Pair] = asyncio.Queue(_QUEUED_PAIRS)
        self._candidate: LoadedModel | None = None
        self._loading: asyncio.Task[None] | None = None
        self._baseline = _Baseline()
        self._stats = ShadowStats()
        self._failures, self._retry_at = 0, 0.0

    @property
    def stats(self) -> ShadowStats:
        if self._baseline != self._in_force:
            # Counted against what served before; the next `update` starts again.
            return ShadowStats(self._stats.model_version)
        return self._stats

    @property
    def _in_force(self) -> _Baseline:
        return _Baseline(self._models.serving_version, self._models.target)

    def offer(self, a: Side, b: Side, verdict: Verdict) -> None:
        """Sample a comparison that was answered; returns at once."""
        if self._candidate is None or self._baseline != _baseline_of(verdict):
            return
        if verdict.no_face or verdict.unsure_reason:
            return
        if not (isinstance(a, FaceImage) and isinstance(b, FaceImage)):
            return
        if random.random() >= self._share:  # noqa: S311
            return
        if self._queue.full() or len(a.data) + len(b.data) > _MAX_PAIR_BYTES:
            metrics.SHADOW_PAIRS.labels("dropped").inc()
        else:
            self._queue.put_nowait(_Pair(a, b, verdict))

    def clear(self) -> None:
        """Drop the queued pictures."""
        while not self._queue.empty():
            self._queue.get_nowait()

    async def update(self, pointer: ShadowPointer | None) -> None:
        """Follow the shadow pointer and what serves; to be called repeatedly.

        A candidate that cannot be loaded is tried again after growing pauses. A version that serves
        is not a candidate.

        Args:
            pointer: Of the registry; None when no version is to be evaluated.
        """
        baseline = self._in_force
        serving = baseline.version
        wanted = pointer.model_version if pointer else ""
        if wanted == serving:
            wanted = ""
        if (wanted, baseline) != (self._stats.model_version, self._baseline):
            await self._reset(wanted, baseline)
        is_loading = self._loading is not None and not self._loading.done()
        is_due = self._candidate is None and time.monotonic() >= self._retry_at
        if wanted and serving and is_due and not is_loading:
            # In a task, so that a version that hangs does not delay the next pointer.
            self._loading = asyncio.create_task(self._load_candidate(wanted))

    async def run(self) -> None:
        """Evaluate the queued pairs until cancelled."""
        await repeat("evaluation of the candidate", self._evaluate_next, every_s=0)

    async def _evaluate_next(self) -> None:
        await self._evaluate(await self._queue.get())

    async def _reset(self, wanted: str, baseline: _Baseline) -> None:
        self.clear()
        if wanted != self._stats.model_version:
            if self._loading is not None:
                self._loading.cancel()
            released, self._candidate = [self._candidate], None
            self._failures, self._retry_at = 0, 0.0
            await asyncio.to_thread(release, released)
        self._baseline = baseline
        self._publish(ShadowStats(model_version=wanted))

    async def _load_candidate(self, version: str) -> None:
        try:
            self._candidate = await self._load(version)
        except Exception as error:
            self._failures += 1
            self._put_off(retry_pause_s(error, self._failures))
            self._record_error(error)
        else:
            _log.info(
                "evaluating model version %s in the shadow of %s", version, self._baseline.version
            )
            self._publish(ShadowStats(model_version=version))

    def _put_off(self, delay_s: float) -> None:
        self._candidate = None
        self._retry_at = time.monotonic() + delay_s

    async def _evaluate(self, pair: _Pair) -> None:
        candidate = self._candidate
        if candidate is None:
            return
        vectors = []
        try:
            for face in (pair.a, pair.b):
                await self._idle.wait()
                crop = await self._pool.read(face, "image", background=True)
                vectors.append(await self._embed(candidate, crop.pixels))
        except Exception as error:
            if isinstance(error, Hanging) and candidate is self._candidate:
                self._put_off(retry_pause_s(error, 1))
            metrics.SHADOW_PAIRS.labels("failed").inc()
            self._record_error(error)
            return
        # The candidate may have been replaced meanwhile; then the pair is in no statistics.
        if candidate is self._candidate:
            self._count(pair.verdict, candidate, float(np.dot(*vectors)))

    async def _embed(self, candidate: LoadedModel, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        def work(cancellation: Cancellation) -> NDArray[np.float32]:
            cancellation.ends_runs_of(candidate.session)
            return _embed(candidate, crop)

        return await self._threads.run(
            candidate.version, work, limit_s=_EMBED_LIMIT_S, low_priority=True
        )

    def _count(self, live: Verdict, candidate: LoadedModel, similarity: float) -> None:
        if self._baseline != _baseline_of(live):
            return
        same = similarity >= DecisionRule.of(candidate.manifest, live.rule.target).threshold
        before, pairs = self._stats, self._stats.pairs + 1
        shift = similarity - live.similarity
        metrics.SHADOW_PAIRS.labels("agreed" if same == live.same else "disagreed").inc()
        self._publish(
            replace(
                before,
                pairs=pairs,
                agreed=before.agreed + (same == live.same),
                similarity_shift=before.similarity_shift
                + (shift - before.similarity_shift) / pairs,
            )
        )

    def _publish(self, stats: ShadowStats) -> None:
        self._stats = stats
        metrics.SHADOW_AGREEMENT.set(stats.agreement)
        metrics.SHADOW_SHIFT.set(stats.similarity_shift)

    def _record_error(self, error: Exception) -> None:
        version = self._stats.model_version
        _log.error(
            "shadow evaluation of model version %s failed; requests are not affected: %s",
            version,
            error,
            exc_info=None if isinstance(error, MagFaceError) else error,
        )
        self._publish(replace(self._stats, error=describe_failure(error)))


def _embed(model: LoadedModel, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
    started = time.perf_counter()
    features = model.session.run(crop[None])
    metrics.SHADOW_SECONDS.observe(time.perf_counter() - started)
    embedding: NDArray[np.float32] = split_features(features)[0][0]
    return embedding
