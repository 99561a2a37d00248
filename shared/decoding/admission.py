"""Admission control: how much work a server accepts at once, and what it refuses."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from math import inf
from typing import Final

from shared.decoding import metrics
from shared.errors import InvalidInput, Overloaded

_MIN_RETRY_S: Final = 0.1
_MAX_RETRY_S: Final = 10.0
# Of large pictures, with which a caller may fill what calls with large pictures may have.
_SECONDS_PER_PIXEL: Final = 20e-9
# Calls of more pixels than this share may have three quarters of the pixels together.
_LARGE_SHARE: Final = 16


class Admission:
    """Counts images, their bytes and their decoded pixels from admission until they are answered.

    Belongs to the loop's thread. Calls that decode nothing need no admission, so a full server
    still answers them.

    Args:
        max_images: Images in flight at which calls are refused. Below it a call is admitted with
            any number of images; otherwise small calls would starve large ones.
        max_bytes: Most bytes of encoded pictures in flight.
        max_pixels: Most pixels of decoded pictures in flight. A call may have half of them, and
            the last quarter is kept for calls with few.

    Attributes:
        idle: Set while nothing is in flight.
    """

    def __init__(self, max_images: int, max_bytes: int, max_pixels: float = inf) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._max_pixels = max_pixels
        self._images = 0
        self._bytes = 0
        self._pixels = 0
        self.idle = asyncio.Event()
        self.idle.set()
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @property
    def images(self) -> int:
        """Images in flight."""
        return self._images

    @contextmanager
    def admit(
        self, images: int, size: int, seconds_per_image: float, pixels: int = 0
    ) -> Iterator[None]:
        """Admit a call, or refuse it at once.

        Args:
            images: At least 1.
            size: Bytes of their encoded pictures.
            seconds_per_image: The server's speed, for the retry delay of a refused call.
            pixels: Of their decoded pictures.

        Raises:
            InvalidInput: If the call has more pixels than a call may have.
            Overloaded: If there is no room beside what is in flight. An empty server admits any
                other call.
        """
        if pixels > self._max_pixels / 2:
            metrics.REFUSED.labels("call").inc()
            raise InvalidInput(
                "images",
                f"have {pixels / 1e6:.0f} megapixels together; a call may have "
                f"{self._max_pixels / 2e6:.0f}: send fewer of them in a call",
            )
        if self._images:
            self._refuse_without_room(size, seconds_per_image, pixels)
        self._count(images, size, pixels)
        try:
            yield
        finally:
            self._count(-images, -size, -pixels)

    @asynccontextmanager
    async def admit_in_turn(self, size: int, pixels: int = 0) -> AsyncIterator[None]:
        """Wait until one image is admitted, first come, first served.

        Images that wait get at most half of the server, so that calls, which do not wait, find
        room.

        Args:
            size: Bytes of the encoded picture.
            pixels: Of the decoded picture.
        """
        async with self._turn:
            while self._images and not (
                self._fits(size, self._max_images // 2)
                and self._pixels + pixels <= self._max_pixels / 2
            ):
                self._freed.clear()
                await self._freed.wait()
            self._count(1, size, pixels)
        try:
            yield
        finally:
            self._count(-1, -size, -pixels)

    def _refuse_without_room(self, size: int, seconds_per_image: float, pixels: int) -> None:
        if not self._fits(size, self._max_images):
            reason, wait = "full", self._images * seconds_per_image
        elif self._pixels + pixels > self._pixels_for(pixels):
            reason, wait = "pixels", self._pixels * _SECONDS_PER_PIXEL
        else:
            return
        metrics.REFUSED.labels(reason).inc()
        raise Overloaded(
            f"the server is full: {self._images} images of {self._pixels / 1e6:.0f} megapixels are "
            f"in flight; its limits are {self._max_images} images, {self._max_bytes} bytes and "
            f"{self._max_pixels / 1e6:.0f} megapixels",
            min(max(wait, _MIN_RETRY_S), _MAX_RETRY_S),
        )

    def _pixels_for(self, pixels: int) -> float:
        large = pixels > self._max_pixels / _LARGE_SHARE
        return self._max_pixels * 0.75 if large else self._max_pixels

    def _fits(self, size: int, max_images: int) -> bool:
        max_bytes = self._max_bytes * max_images // self._max_images
        return self._images < max_images and self._bytes + size <= max_bytes

    def _count(self, images: int, size: int, pixels: int) -> None:
        self._images += images
        self._bytes += size
        self._pixels += pixels
        if self._images:
            self.idle.clear()
        else:
            self.idle.set()
        self._freed.set()
