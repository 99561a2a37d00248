"""Gathers what waits while the engine is busy into its next batch.

There is no delay timer: a batch is whatever is waiting when the engine becomes
free. So an idle engine starts at once, and batches grow with the load by themselves.
A batch is of one model version; work for another one is the beginning of the next batch.
"""

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.inference.requests import Work
from shared.errors import Unavailable
from shared.model.image.align import CROP_SIZE


class Batch:
    """Whole pieces of work for one model, whose crops lie one after the other in one array.

    Args:
        limit: Images it takes; work larger than that is a batch of its own.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = np.empty((limit, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
        self.works: list[Work] = []
        self.expired: list[Work] = []
        self.images = 0

    @property
    def crops(self) -> NDArray[np.uint8]:
        """uint8, (images, 112, 112, 3), in the order of `works`."""
        return self._buffer[: self.images]

    def has_room(self, work: Work) -> bool:
        if not self.works:
            return True
        return work.model is self.works[0].model and self.images + work.images <= self._limit

    def add(self, work: Work) -> None:
        if work.images > self._limit:
            self._buffer = work.crops
        else:
            self._buffer[self.images : self.images + work.images] = work.crops
        self.works.append(work)
        self.images += work.images

    def drop_unwanted(self) -> None:
        """Take out the work whose caller has gone or whose deadline has passed."""
        self.expired = [work for work in self.works if work.expired and not work.abandoned]
        wanted = [work for work in self.works if not work.abandoned and work not in self.expired]
        metrics.DROPPED_IMAGES.labels("expired").inc(sum(work.images for work in self.expired))
        if len(wanted) == len(self.works):
            return
        self.works, self.images = [], 0
        for work in wanted:
            self.add(work)


class Batcher:
    """First come, first served, for many submitting threads and one taking thread.

    The next batch is assembled by those who submit, while the engine is still busy
    with the one before; it stays open to newcomers until the engine takes it.

    Args:
        batch_images: Most images in a batch.
    """

    def __init__(self, batch_images: int) -> None:
        self._batch_images = batch_images
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[Work] = deque()
        self._next = Batch(batch_images)
        self._closed = False

    def submit(self, works: Iterable[Work]) -> None:
        """Queue work whose crops are complete.

        Raises:
            Unavailable: If the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("the server is stopping; ask another one")
            self._waiting.extend(works)
            self._assemble()
            self._changed.notify()

    def discard(self, work: Work) -> None:
        """Forget work whose caller has gone; it is not computed unless it already is."""
        work.abandoned = True
        with self._changed:
            if work in self._waiting:
                self._waiting.remove(work)

    def take(self) -> Batch | None:
        """Wait for the next batch; None once the batcher is closed and empty.

        The batch may hold nothing but work that expired while it waited.
        """
        with self._changed:
            self._assemble()
            while not self._next.works:
                if self._closed:
                    return None
                self._changed.wait()
            batch, self._next = self._next, Batch(self._batch_images)
        batch.drop_unwanted()
        return batch

    def close(self) -> None:
        """Take no more work; what is queued is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _assemble(self) -> None:
        while self._waiting and self._next.has_room(self._waiting[0]):
            self._next.add(self._waiting.popleft())
