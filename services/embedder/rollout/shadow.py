"""Lets a candidate answer a sample of the comparisons, to nobody, while nothing else is to do."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.embedding.verification import Side, Verdict
from services.embedder.models.background import background_thread
from services.embedder.models.malloc import let_go
from services.embedder.models.resident import LoadedModel, ResidentModels
from shared.errors import MagFaceError
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.model.sessions.base import split_features
from shared.registry.shadow_pointer import ShadowPointer

_log = logging.getLogger(__name__)
_QUEUED_PAIRS: Final = 16
# What waits stays in memory, so large pictures are no part of the sample.
_PAIR_BYTES: Final = 4 * 2**20
_FIRST_RETRY_S: Final = 1.0
_LAST_RETRY_S: Final = 60.0


@dataclass(frozen=True)
class ShadowReport:
    """How a candidate did on live comparisons, against the version that serves.

    Attributes:
        model_version: The candidate; empty when there is none.
        pairs: Comparisons that both versions judged.
        agreed: How many of them got the same decision, each at its own version's threshold.
        similarity_shift: Mean of the candidate's similarity less the serving version's.
        error: Why it cannot be loaded, or could not compute the last time it failed.
    """

    model_version: str = ""
    pairs: int = 0
    agreed: int = 0
    similarity_shift: float = 0.0
    error: str = ""

    @property
    def agreement(self) -> float:
        """Share of equal decisions, 0..1; 0 before the first."""
        return self.agreed / self.pairs if self.pairs else 0.0


@dataclass(frozen=True, slots=True)
class _Pair:
    a: FaceImage
    b: FaceImage
    verdict: Verdict


class Shadow:
    """Follows the registry's shadow pointer, and tries that version.

    Nothing waits for it: a pair is queued or dropped, and each image is computed only while
    no call is in flight, on a thread of low priority.

    Args:
        models: What serves.
        reader: Reads one face.
        load: Makes a version ready to compute. Blocks.
        idle: Set while no call is in flight.
        share: Of the comparisons that are tried, 0..1.
    """

    def __init__(
        self,
        models: ResidentModels,
        reader: FaceReader,
        load: Callable[[str], LoadedModel],
        idle: asyncio.Event,
        share: float,
    ) -> None:
        self._models = models
        self._reader = reader
        self._load = load
        self._idle = idle
        self._share = share
        self._thread = background_thread("shadow")
        self._queue: asyncio.Queue[_Pair] = asyncio.Queue(_QUEUED_PAIRS)
        self._model: LoadedModel | None = None
        self._against: str | None = None
        self._report = ShadowReport()
        self._retry_at, self._retry_s = 0.0, _FIRST_RETRY_S

    @property
    def report(self) -> ShadowReport:
        return self._report

    def offer(self, a: Side, b: Side, verdict: Verdict) -> None:
        """Consider a comparison that was answered; returns at once."""
        if self._model is None or verdict.model_version != self._against:
            return
        if not (isinstance(a, FaceImage) and isinstance(b, FaceImage)):
            return
        if random.random() >= self._share:  # noqa: S311
            return
        if self._queue.full() or len(a.data) + len(b.data) > _PAIR_BYTES:
            metrics.SHADOW_PAIRS.labels("dropped").inc()
        else:
            self._queue.put_nowait(_Pair(a, b, verdict))

    def forget(self) -> None:
        """Drop the pictures that wait."""
        while not self._queue.empty():
            self._queue.get_nowait()

    async def look(self, pointer: ShadowPointer | None) -> None:
        """Bring the candidate in line with the registry and with what serves.

        To be called again and again: a version that cannot be loaded is tried again with
        growing pauses, and a candidate that serves is no candidate any longer.
        """
        serving = self._models.serving_version
        wanted = pointer.model_version if pointer else ""
        if wanted == serving:
            wanted = ""
        if (wanted, serving) != (self._report.model_version, self._against):
            await self._begin(wanted, serving)
        if wanted and serving and self._model is None and time.monotonic() >= self._retry_at:
            await self._bring(wanted)

    async def run(self) -> None:
        """Try what is queued until cancelled."""
        try:
            while True:
                await self._try(await self._queue.get())
        finally:
            self._thread.shutdown(wait=False)

    async def _begin(self, wanted: str, serving: str | None) -> None:
        self.forget()
        if wanted != self._report.model_version:
            no_more, self._model = [self._model], None
            self._retry_at, self._retry_s = 0.0, _FIRST_RETRY_S
            await asyncio.to_thread(let_go, no_more)
        self._against = serving
        self._publish(ShadowReport(model_version=wanted))

    async def _bring(self, version: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            self._model = await loop.run_in_executor(self._thread, self._load, version)
        except Exception as error:
            self._retry_at = time.monotonic() + self._retry_s
            self._retry_s = min(2 * self._retry_s, _LAST_RETRY_S)
            self._note(error)
        else:
            _log.info("model version %s answers in the shadow of %s", version, self._against)
            self._publish(ShadowReport(model_version=version))

    async def _try(self, pair: _Pair) -> None:
        model = self._model
        if model is None:
            return
        loop = asyncio.get_running_loop()
        vectors = []
        try:
            for face in (pair.a, pair.b):
                await self._idle.wait()
                vectors.append(await loop.run_in_executor(self._thread, self._embed, model, face))
        except Exception as error:
            metrics.SHADOW_PAIRS.labels("failed").inc()
            self._note(error)
            return
        # The registry may have changed its mind meanwhile; then this belongs to no report.
        if model is self._model:
            self._count(pair.verdict, model, float(np.dot(*vectors)))

    def _embed(self, model: LoadedModel, face: FaceImage) -> NDArray[np.float32]:
        crop = self._reader.crop(face)
        started = time.perf_counter()
        raw = model.session.run(crop[None])
        metrics.SHADOW_SECONDS.observe(time.perf_counter() - started)
        embedding: NDArray[np.float32] = split_features(raw)[0][0]
        return embedding

    def _count(self, live: Verdict, model: LoadedModel, similarity: float) -> None:
        if live.model_version != self._against:
            return
        same = similarity >= model.manifest.threshold
        before, pairs = self._report, self._report.pairs + 1
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

    def _publish(self, report: ShadowReport) -> None:
        self._report = report
        metrics.SHADOW_AGREEMENT.set(report.agreement)
        metrics.SHADOW_SHIFT.set(report.similarity_shift)

    def _note(self, error: Exception) -> None:
        version = self._report.model_version
        _log.error(
            "model version %s failed in the shadow, to no one's harm: %s",
            version,
            error,
            exc_info=None if isinstance(error, MagFaceError) else error,
        )
        self._publish(replace(self._report, error=f"{type(error).__name__}: {error}"))
