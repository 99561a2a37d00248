"""Dynamic batching: collects the requests that wait while the engine is busy.

There is no delay timer: the next batch is whatever waits when the engine becomes free. An idle
engine starts at once, and batches grow with the load. All requests of a batch are for one model
version; a request for another version starts the next batch.
"""

import threading
from collections import deque
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from services.embedder import metrics
from services.embedder.inference.requests import InferenceRequest
from shared.errors import Unavailable
from shared.model.image.align import CROP_SIZE


class Batch:
    """Requests for one model, with their crops in one array.

    Args:
        max_images: Images in the batch; a larger request is a batch of its own.

    Attributes:
        requests: In the order of their crops.
        expired: Requests whose deadline passed before the engine took the batch.
        images: Number of crops.
    """

    def __init__(self, max_images: int) -> None:
        self._max_images = max_images
        self._buffer = np.empty((max_images, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
        self.requests: list[InferenceRequest] = []
        self.expired: list[InferenceRequest] = []
        self.images = 0

    @property
    def crops(self) -> NDArray[np.uint8]:
        """uint8, (images, 112, 112, 3), in the order of `requests`."""
        return self._buffer[: self.images]

    def has_room(self, request: InferenceRequest) -> bool:
        if not self.requests:
            return True
        fits = self.images + request.images <= self._max_images
        return fits and request.model is self.requests[0].model

    def add(self, request: InferenceRequest) -> None:
        if request.images > self._max_images:
            self._buffer = request.crops
        else:
            self._buffer[self.images : self.images + request.images] = request.crops
        self.requests.append(request)
        self.images += request.images

    def drop_unwanted(self) -> None:
        """Remove requests that were abandoned or whose deadline has passed."""
        self.expired = [each for each in self.requests if each.expired and not each.abandoned]
        wanted = [each for each in self.requests if not each.abandoned and each not in self.expired]
        metrics.DROPPED_IMAGES.labels("expired").inc(sum(each.images for each in self.expired))
        if len(wanted) == len(self.requests):
            return
        self.requests, self.images = [], 0
        for request in wanted:
            self.add(request)


class Batcher:
    """A first-in, first-out queue of requests that is read in batches.

    Any thread may submit; one thread takes. The submitting threads copy crops into the next batch
    while the engine computes the one before; requests join it until the engine takes it.

    Args:
        batch_images: Most images in a batch.
    """

    def __init__(self, batch_images: int) -> None:
        self._batch_images = batch_images
        self._changed = threading.Condition(threading.Lock())
        self._waiting: deque[InferenceRequest] = deque()
        self._next = Batch(batch_images)
        self._closed = False

    def submit(self, requests: Iterable[InferenceRequest]) -> None:
        """Queue requests whose crops are complete.

        Raises:
            Unavailable: If the batcher is closed.
        """
        with self._changed:
            if self._closed:
                raise Unavailable("the server is stopping; ask another one")
            self._waiting.extend(requests)
            self._fill_next()
            self._changed.notify()

    def discard(self, request: InferenceRequest) -> None:
        """Mark a request as abandoned; it is not computed unless it already is."""
        request.abandoned = True
        with self._changed:
            if request in self._waiting:
                self._waiting.remove(request)

    def take(self) -> Batch | None:
        """Wait for the next batch; None once the batcher is closed and empty.

        All requests of the batch may have expired.
        """
        with self._changed:
            self._fill_next()
            while not self._next.requests:
                if self._closed:
                    return None
                self._changed.wait()
            batch, self._next = self._next, Batch(self._batch_images)
        batch.drop_unwanted()
        return batch

    def close(self) -> None:
        """Refuse further requests; those in the queue can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fill_next(self) -> None:
        while self._waiting and self._next.has_room(self._waiting[0]):
            self._next.add(self._waiting.popleft())
