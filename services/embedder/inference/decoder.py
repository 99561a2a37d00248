"""Decoding and alignment of pictures into the crops of a request."""

import threading
from collections.abc import Callable, Sequence
from typing import Final, cast

from services.embedder import metrics
from services.embedder.inference.requests import Deliver, InferenceRequest, NamedFace
from services.embedder.inference.small_pictures import SMALL_PIXELS, are_small
from shared.decoding.pool import DecodePool
from shared.decoding.queue import DecodeOutcome, DecodeTask
from shared.model.image.face import FaceCrop
from shared.model.image.face_reader import FaceReader

# A Verify has two faces; more are decoded faster by several processes.
_MAX_INLINE_FACES: Final = 2


class Decoder:
    """Fills the crops of requests.

    Args:
        reader: Decodes and aligns small pictures.
        pool: Decodes and aligns all others.
        submit: Takes complete requests, on a thread of the pool; must not raise. It is not called
            for a request with an unreadable face, nor for an abandoned one.
        deliver: Takes failures back to the caller.
    """

    def __init__(
        self,
        reader: FaceReader,
        pool: DecodePool,
        submit: Callable[[list[InferenceRequest]], None],
        deliver: Deliver,
    ) -> None:
        self._reader = reader
        self._pool = pool
        self._submit = submit
        self._deliver = deliver

    def fill_inline(self, request: InferenceRequest, faces: Sequence[NamedFace]) -> bool:
        """Fill the crops of a request on the calling thread if its pictures are small.

        Args:
            request: With room for as many crops as there are faces.
            faces: To decode.

        Returns:
            Whether the crops are complete; call `start` otherwise.

        Raises:
            InvalidInput: For the first face that cannot be read.
        """
        if len(faces) > _MAX_INLINE_FACES or not are_small(faces):
            return False
        for index, (field, face) in enumerate(faces):
            crop = self._reader.read_plain_jpeg(face, SMALL_PIXELS, field)
            if crop is None:
                return False
            request.set_crop(index, crop)
        return True

    def start(self, request: InferenceRequest, faces: Sequence[NamedFace]) -> Callable[[], None]:
        """Fill the crops of a request in the pool, then submit it; returns at once.

        Args:
            request: With room for as many crops as there are faces.
            faces: To decode.

        Returns:
            A function that ends the work, for an abandoned request.
        """
        job = _DecodeJob(self._pool, request, self._complete)
        job.start(faces)
        return job.cancel

    def _complete(self, request: InferenceRequest, error: Exception | None) -> None:
        if request.abandoned:
            return
        if error is not None:
            self._deliver(lambda: [(request, error)])
        else:
            self._submit([request])


class _DecodeJob:
    def __init__(
        self,
        pool: DecodePool,
        request: InferenceRequest,
        complete: Callable[[InferenceRequest, Exception | None], None],
    ) -> None:
        self._pool = pool
        self._request = request
        self._complete = complete
        self._tasks: Sequence[DecodeTask] = ()
        # Pictures from here on cannot change the outcome: an earlier one failed.
        self._wanted = request.images
        self._error: Exception | None = None
        self._done: set[int] = set()
        self._lock = threading.Lock()

    def start(self, faces: Sequence[NamedFace]) -> None:
        with self._lock:
            self._tasks = self._pool.submit(
                "read", faces, self._take, deadline=self._request.deadline
            )

    def cancel(self) -> None:
        """Drop what is not decoded yet."""
        metrics.DROPPED_IMAGES.labels("abandoned").inc(self._request.images - len(self._done))
        self._pool.cancel(self._tasks)
        self._tasks = ()

    def _take(self, index: int, outcome: DecodeOutcome) -> None:
        """Take one crop, or the error of the first face that could not be read."""
        unwanted: Sequence[DecodeTask] = ()
        with self._lock:
            if index >= self._wanted:
                return
            if isinstance(outcome, Exception):
                unwanted = self._tasks[index + 1 : self._wanted]
                self._wanted, self._error = index, outcome
            else:
                self._request.set_crop(index, cast("FaceCrop", outcome))
            self._done.add(index)
            complete = all(number in self._done for number in range(self._wanted))
            if complete:
                # The tasks refer to this job, and the cycle would keep the pictures in memory.
                self._tasks = ()
        if unwanted:
            self._pool.cancel(unwanted)
        if complete:
            self._complete(self._request, self._error)
