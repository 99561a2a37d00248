"""The one thread that computes: batch after batch, each with the model it is for."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.inference.batcher import Batch, Batcher
from services.embedder.inference.requests import Answer, Deliver, Outcome, Settled, Work
from shared.errors import CorruptData, Overloaded
from shared.model.manifest import Manifest
from shared.model.sessions.base import split_features

_log = logging.getLogger(__name__)
# Weight of the newest batch in the running mean of the engine's speed.
_SMOOTHING = 0.2


class Engine:
    """Runs one batch after the other.

    Args:
        batcher: Where batches come from.
        deliver: Takes the outcomes of a batch to those who wait for them.
    """

    def __init__(self, batcher: Batcher, deliver: Deliver) -> None:
        self._batcher = batcher
        self._deliver = deliver
        self._seconds_per_image = 0.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @property
    def seconds_per_image(self) -> float:
        """Running mean of what one image takes within a batch; 0 before the first."""
        return self._seconds_per_image

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Compute what is queued, then end the thread."""
        self._batcher.close()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        going_on = True
        while going_on:
            going_on = self._run_next()

    def _run_next(self) -> bool:
        # In a frame of its own: an idle engine must not hold on to the last batch's model.
        batch = self._batcher.take()
        if batch is None:
            return False
        outcome = self._compute(batch) if batch.works else None
        self._deliver(partial(_settled, batch, outcome))
        return True

    def _compute(self, batch: Batch) -> NDArray[np.float32] | Exception:
        started = time.perf_counter()
        try:
            raw = batch.works[0].model.session.run(batch.crops)
        except Exception as error:
            _log.exception("the engine failed on a batch of %d images", batch.images)
            return error
        self._measure(batch.images, time.perf_counter() - started)
        return raw

    def _measure(self, images: int, seconds: float) -> None:
        metrics.BATCH_IMAGES.observe(images)
        metrics.ENGINE_SECONDS.observe(seconds)
        newest, mean = seconds / images, self._seconds_per_image
        self._seconds_per_image = mean + _SMOOTHING * (newest - mean) if mean else newest


def _settled(batch: Batch, outcome: NDArray[np.float32] | Exception | None) -> Settled:
    settled: list[tuple[Work, Outcome]] = [(work, _too_late()) for work in batch.expired]
    if isinstance(outcome, Exception):
        settled += [(work, outcome) for work in batch.works]
    elif outcome is not None:
        settled += zip(batch.works, _answers(batch.works, outcome), strict=True)
    return settled


def _answers(works: Sequence[Work], raw: NDArray[np.float32]) -> list[Outcome]:
    manifest = works[0].model.manifest
    try:
        whole = _answer(raw, manifest)
    except CorruptData:
        # One unusable row must not take its neighbours' answers away.
        return [_answer_or_error(raw[rows], manifest) for rows in _rows(works)]
    return [
        Answer(whole.embeddings[rows], whole.magnitudes[rows], whole.qualities[rows])
        for rows in _rows(works)
    ]


def _rows(works: Sequence[Work]) -> Iterator[slice]:
    start = 0
    for work in works:
        yield slice(start, start + work.images)
        start += work.images


def _answer(raw: NDArray[np.float32], manifest: Manifest) -> Answer:
    embeddings, magnitudes = split_features(raw)
    return Answer(embeddings, magnitudes, manifest.quality(magnitudes))


def _answer_or_error(raw: NDArray[np.float32], manifest: Manifest) -> Outcome:
    try:
        return _answer(raw, manifest)
    except CorruptData as error:
        return error


def _too_late() -> Exception:
    return Overloaded("the call's deadline passed before its turn came", 1.0)
