"""The inference thread: runs one batch after the other."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.inference.batcher import Batch, Batcher
from services.embedder.inference.requests import (
    Deliver,
    EngineOutput,
    EngineResult,
    InferenceRequest,
    RequestResults,
)
from shared.errors import CorruptData, Overloaded, without_frames
from shared.model.face_check import FaceCheck
from shared.model.manifest import Manifest
from shared.model.sessions.base import split_features

_log = logging.getLogger(__name__)
# Weight of the newest batch in the moving average of the engine's speed.
_SMOOTHING = 0.2


@dataclass(frozen=True, slots=True)
class _Computed:
    """The features of a batch, float32 [N, D], and whether its crops look like faces, bool [N]."""

    features: NDArray[np.float32]
    shows_face: NDArray[np.bool_]

    def __getitem__(self, rows: slice) -> "_Computed":
        return _Computed(self.features[rows], self.shows_face[rows])


class InferenceEngine:
    """Runs batches on one thread, each with the model that its requests are for.

    Args:
        batcher: Gives the batches.
        deliver: Takes the results of a batch to its callers.
    """

    def __init__(self, batcher: Batcher, deliver: Deliver) -> None:
        self._batcher = batcher
        self._deliver = deliver
        self._face_check = FaceCheck()
        self._seconds_per_image = 0.0
        self._run_began: float | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def seconds_per_image(self) -> float:
        """Moving average of a batch's seconds divided by its images; 0 before the first batch."""
        return self._seconds_per_image

    @property
    def seconds_in_run(self) -> float:
        """How long the network has been running for the batch it computes; 0 between batches."""
        began = self._run_began
        return 0.0 if began is None else time.perf_counter() - began

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Compute what is queued, then end the thread."""
        self._batcher.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        while self._run_next():
            pass

    def _run_next(self) -> bool:
        # A function of its own: an idle engine must not keep the last batch's model in memory.
        batch = self._batcher.take()
        if batch is None:
            return False
        features = self._compute(batch) if batch.requests else None
        self._deliver(partial(_results, batch, features, self._face_check))
        return True

    def _compute(self, batch: Batch) -> NDArray[np.float32] | Exception:
        started = self._run_began = time.perf_counter()
        try:
            features = batch.requests[0].model.session.run(batch.crops)
        except Exception as error:
            _log.exception("a batch of %d images failed; its calls get the error", batch.images)
            return without_frames(error)
        finally:
            self._run_began = None
        self._measure(batch.images, time.perf_counter() - started)
        return features

    def _measure(self, images: int, seconds: float) -> None:
        metrics.BATCH_IMAGES.observe(images)
        metrics.ENGINE_SECONDS.observe(seconds)
        newest, mean = seconds / images, self._seconds_per_image
        self._seconds_per_image = mean + _SMOOTHING * (newest - mean) if mean else newest


def _results(
    batch: Batch, features: NDArray[np.float32] | Exception | None, face_check: FaceCheck
) -> RequestResults:
    results: list[tuple[InferenceRequest, EngineResult]] = [
        (request, _expired()) for request in batch.expired
    ]
    if isinstance(features, Exception):
        results += [(request, features) for request in batch.requests]
    elif features is not None:
        computed = _Computed(features, face_check.shows_face(batch.crops))
        results += zip(batch.requests, _outputs(batch.requests, computed), strict=True)
    return results


def _outputs(requests: Sequence[InferenceRequest], computed: _Computed) -> list[EngineResult]:
    manifest = requests[0].model.manifest
    try:
        whole = _output(computed, manifest)
    except CorruptData:
        # An unusable row fails its own request only.
        return [_output_or_error(computed[rows], manifest) for rows in _rows(requests)]
    return [
        EngineOutput(
            whole.embeddings[rows],
            whole.magnitudes[rows],
            whole.qualities[rows],
            whole.shows_face[rows],
        )
        for rows in _rows(requests)
    ]


def _rows(requests: Sequence[InferenceRequest]) -> Iterator[slice]:
    start = 0
    for request in requests:
        yield slice(start, start + request.images)
        start += request.images


def _output(computed: _Computed, manifest: Manifest) -> EngineOutput:
    embeddings, magnitudes = split_features(computed.features)
    quality = manifest.quality(magnitudes)
    return EngineOutput(embeddings, magnitudes, quality, computed.shows_face)


def _output_or_error(computed: _Computed, manifest: Manifest) -> EngineResult:
    try:
        return _output(computed, manifest)
    except CorruptData as error:
        return without_frames(error)


def _expired() -> Exception:
    return Overloaded("the call's deadline passed while it was queued", 1.0)
