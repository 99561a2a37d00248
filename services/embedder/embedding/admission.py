"""Admission control: how much work the server accepts at once, and what it refuses."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from services.embedder import metrics
from shared.errors import Overloaded

_MIN_RETRY_S = 0.1
_MAX_RETRY_S = 10.0


class Admission:
    """Counts images and their bytes from admission until they are answered.

    Belongs to the loop's thread. Health checks and GetModel need no admission, so a full server
    still answers them.

    Args:
        max_images: Images in flight at which calls are refused. Below it a call is admitted with
            any number of images; otherwise small calls would starve large ones.
        max_bytes: Most bytes of encoded pictures in flight.

    Attributes:
        idle: Set while nothing is in flight.
    """

    def __init__(self, max_images: int, max_bytes: int) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._images = 0
        self._bytes = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()
        metrics.IMAGES_IN_FLIGHT.set_function(lambda: self._images)

    @contextmanager
    def admit(self, images: int, size: int, seconds_per_image: float) -> Iterator[None]:
        """Admit a call, or refuse it at once.

        Args:
            images: At least 1.
            size: Bytes of their encoded pictures.
            seconds_per_image: The engine's speed, for the retry delay of a refused call.

        Raises:
            Overloaded: If there is no room beside what is in flight. An empty server admits any
                call.
        """
        if self._images and not self._fits(size, self._max_images):
            metrics.REFUSED_CALLS.inc()
            wait = self._images * seconds_per_image
            raise Overloaded(
                f"the server is full: {self._images} images are in flight; its limits are "
                f"{self._max_images} images and {self._max_bytes} bytes",
                min(max(wait, _MIN_RETRY_S), _MAX_RETRY_S),
            )
        self._count(images, size)
        try:
            yield
        finally:
            self._count(-images, -size)

    @asynccontextmanager
    async def admit_in_turn(self, size: int) -> AsyncIterator[None]:
        """Wait until one image is admitted, first come, first served.

        Images that wait get at most half of the server, so that calls, which do not wait, find
        room.

        Args:
            size: Bytes of the encoded picture.
        """
        async with self._turn:
            while self._images and not self._fits(size, self._max_images // 2):
                self._freed.clear()
                await self._freed.wait()
            self._count(1, size)
        try:
            yield
        finally:
            self._count(-1, -size)

    def _fits(self, size: int, max_images: int) -> bool:
        max_bytes = self._max_bytes * max_images // self._max_images
        return self._images < max_images and self._bytes + size <= max_bytes

    def _count(self, images: int, size: int) -> None:
        self._images += images
        self._bytes += size
        if self._images:
            self.idle.clear()
        else:
            self.idle.set()
        self._freed.set()
