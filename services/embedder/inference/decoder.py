"""Turns pictures into the crops of a piece of work, in a bounded pool of threads."""

import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Final, TypeAlias

from services.embedder import metrics
from services.embedder.inference.requests import Deliver, Work
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader

# Each face with the name of its field.
NamedFace: TypeAlias = tuple[str, FaceImage]
# The two of a Verify.
_AT_ONCE: Final = 2


class Decoder:
    """Decodes and aligns.

    Args:
        reader: Reads one face.
        threads: Size of the pool.
        then: Called on a thread of the pool with complete work, and raises nothing. It is not
            called when a face cannot be read, or the caller has gone.
        deliver: Takes failures back to the caller.
    """

    def __init__(
        self, reader: FaceReader, threads: int, then: Callable[[list[Work]], None], deliver: Deliver
    ) -> None:
        self._reader = reader
        self._then = then
        self._deliver = deliver
        # A pool of futures would cost the loop ten times what this does, for each picture.
        self._steps: SimpleQueue[_Step | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"decode-{number}", daemon=True)
            for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def fill_at_once(self, work: Work, faces: Sequence[NamedFace]) -> bool:
        """Fill the crops of work if that takes no longer than waking a thread for it.

        The threads of a pool would take the interpreter's lock from the caller and from each
        other for every small picture: that costs more than to decode it.

        Args:
            work: With room for as many crops as there are faces.
            faces: Each with the name of its field.

        Returns:
            Whether it is done; `start` it otherwise.

        Raises:
            InvalidInput: For the first face that cannot be read.
        """
        if len(faces) > _AT_ONCE:
            return False
        for index, (field, face) in enumerate(faces):
            crop = self._reader.crop_at_once(face, field)
            if crop is None:
                return False
            work.crops[index] = crop
        return True

    def start(self, work: Work, faces: Sequence[NamedFace]) -> None:
        """Fill the crops of some work on the pool, then pass it on; returns at once.

        Args:
            work: With room for as many crops as there are faces.
            faces: Each with the name of its field.
        """
        job = _Job(self._reader, work, faces)
        for index in range(len(faces)):
            self._steps.put((job, index))

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

    def _do(self, job: "_Job", index: int) -> None:
        if not job.read(index) or job.work.abandoned:
            return
        if (error := job.error) is not None:
            self._deliver(lambda: [(job.work, error)])
        else:
            self._then([job.work])


class _Job:
    def __init__(self, reader: FaceReader, work: Work, faces: Sequence[NamedFace]) -> None:
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

    @property
    def error(self) -> Exception | None:
        """What was wrong with the first face that could not be read."""
        return self._errors[min(self._errors)] if self._errors else None

    def _read(self, index: int) -> None:
        field, face = self._faces[index]
        try:
            self.work.crops[index] = self._reader.crop(face, field)
        except Exception as error:
            self._errors[index] = error


_Step: TypeAlias = tuple[_Job, int]
