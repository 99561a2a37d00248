"""Decoding and alignment of pictures into the crops of a request, on a bounded pool of threads."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from queue import SimpleQueue
from typing import Final

from services.embedder import metrics
from services.embedder.inference.requests import Deliver, InferenceRequest, NamedFace
from services.embedder.inference.small_pictures import SMALL_PIXELS, are_small
from shared.model.image.face import Detection
from shared.model.image.face_reader import FaceReader

# A Verify has two faces; more are decoded faster by several threads.
_MAX_INLINE_FACES: Final = 2


class Decoder:
    """Fills the crops of requests.

    Args:
        reader: Decodes and aligns one face.
        threads: Size of the pool.
        submit: Takes complete requests, on a thread of the pool; must not raise. It is not called
            for a request with an unreadable face, nor for an abandoned one.
        deliver: Takes failures back to the caller.
    """

    def __init__(
        self,
        reader: FaceReader,
        threads: int,
        submit: Callable[[list[InferenceRequest]], None],
        deliver: Deliver,
    ) -> None:
        self._reader = reader
        self._submit = submit
        self._deliver = deliver
        # An executor with futures costs the loop ten times as much for each picture.
        self._steps: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

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

    def start(self, request: InferenceRequest, faces: Sequence[NamedFace]) -> None:
        """Fill the crops of a request on the pool, then submit it; returns at once.

        Args:
            request: With room for as many crops as there are faces.
            faces: To decode.
        """
        job = _DecodeJob(self._reader, request, faces)
        for index in range(len(faces)):
            self._steps.put(partial(self._decode, job, index))

    def detect(self, face: NamedFace) -> Future[Detection]:
        """Find all faces in a picture on the pool; returns at once.

        Returns:
            The faces; it may be cancelled until the pool begins with the picture.
        """
        future: Future[Detection] = Future()
        self._steps.put(partial(self._detect, face, future))
        return future

    def stop(self) -> None:
        """Decode what was started, then end the threads."""
        for _ in self._threads:
            self._steps.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while step := self._steps.get():
            step()
            # An idle thread must not keep the last request's model in memory.
            del step

    def _decode(self, job: "_DecodeJob", index: int) -> None:
        if not job.decode(index) or job.request.abandoned:
            return
        if (error := job.error) is not None:
            self._deliver(lambda: [(job.request, error)])
        else:
            self._submit([job.request])

    def _detect(self, face: NamedFace, future: Future[Detection]) -> None:
        if not future.set_running_or_notify_cancel():
            metrics.DROPPED_IMAGES.labels("abandoned").inc()
            return
        field, picture = face
        try:
            future.set_result(self._reader.detect(picture.data, field))
        except Exception as error:
            future.set_exception(error)


class _DecodeJob:
    def __init__(
        self, reader: FaceReader, request: InferenceRequest, faces: Sequence[NamedFace]
    ) -> None:
        self.request = request
        self._reader = reader
        self._faces = faces
        self._errors: dict[int, Exception] = {}
        self._left = len(faces)
        self._lock = threading.Lock()

    def decode(self, index: int) -> bool:
        """Decode one face, and say whether it was the last one."""
        if self.request.abandoned:
            metrics.DROPPED_IMAGES.labels("abandoned").inc()
        else:
            self._fill(index)
        with self._lock:
            self._left -= 1
            return self._left == 0

    @property
    def error(self) -> Exception | None:
        """Error of the first face that could not be read."""
        return self._errors[min(self._errors)] if self._errors else None

    def _fill(self, index: int) -> None:
        field, face = self._faces[index]
        try:
            self.request.set_crop(index, self._reader.read(face, field))
        except Exception as error:
            self._errors[index] = error
