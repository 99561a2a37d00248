"""A bounded pool of threads that turns pictures into the crops of a piece of work."""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeAlias

from services.embedder import metrics
from services.embedder.work import Deliver, Work
from shared.model.faces import FaceImage, FaceReader


class Decoder:
    """Decodes and aligns.

    Args:
        reader: Reads one face.
        threads: Size of the pool.
        deliver: Takes failures back to the caller.
    """

    def __init__(self, reader: FaceReader, threads: int, deliver: Deliver) -> None:
        self._reader = reader
        self._deliver = deliver
        # A pool of futures would cost the loop ten times what this does, for each picture.
        self._steps: SimpleQueue[_Step | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def start(
        self, work: Work, faces: Sequence[tuple[str, FaceImage]], then: Callable[[Work], None]
    ) -> None:
        """Fill the crops of some work, then pass it on; returns at once.

        Args:
            work: With room for as many crops as there are faces.
            faces: Each with the name of its field.
            then: Called on a thread of the pool with the complete work. It is not
                called when a face cannot be read, or the caller has gone.
        """
        job = _Job(self._reader, work, faces)
        for index in range(len(faces)):
            self._steps.put((job, index, then))

    def stop(self) -> None:
        """Decode what was started, then end the threads."""
        for _ in self._threads:
            self._steps.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while step := self._steps.get():
            self._do(*step)
            del step

    def _do(self, job: "_Job", index: int, then: Callable[[Work], None]) -> None:
        if not job.read(index) or job.work.abandoned:
            return
        try:
            job.check()
            then(job.work)
        except Exception as error:
            self._deliver([(job.work, error)])


class _Job:
    def __init__(
        self, reader: FaceReader, work: Work, faces: Sequence[tuple[str, FaceImage]]
    ) -> None:
        self.work = work
        self._reader = reader
        self._faces = faces
        self._errors: dict[int, Exception] = {}
        self._left = len(faces)
        self._lock = threading.Lock()

    def read(self, index: int) -> bool:
        """Read one face; True when it was the last one missing."""
        if self.work.abandoned:
            metrics.DROPPED_IMAGES.labels("abandoned").inc()
        else:
            self._read(index)
        with self._lock:
            self._left -= 1
            return self._left == 0

    def check(self) -> None:
        """Raise what was wrong with the first face that could not be read."""
        if self._errors:
            raise self._errors[min(self._errors)]

    def _read(self, index: int) -> None:
        field, face = self._faces[index]
        try:
            self.work.crops[index] = self._reader.crop(face, field)
        except Exception as error:
            self._errors[index] = error


_Step: TypeAlias = tuple[_Job, int, Callable[[Work], None]]
