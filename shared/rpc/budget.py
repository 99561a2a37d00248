"""A budget of bytes that several streams share."""

import asyncio
from collections import deque


class ByteBudget:
    """Bytes that may be in use at the same time; those who wait get them in turn.

    It belongs to the loop's thread. A single request that is larger than the budget is granted
    while nothing else is in use, so that it can be handled at all.

    Attributes:
        max_bytes: Most bytes in use.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._used = 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def used(self) -> int:
        """Bytes in use now."""
        return self._used

    async def take(self, size: int) -> "HeldBytes":
        """Wait until so many bytes are free, and hold them."""
        if self.has_room(size):
            self._used += size
            return HeldBytes(self, size)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, turn))
        try:
            await turn
        except asyncio.CancelledError:
            self._change(-size if not turn.cancelled() else 0)
            raise
        return HeldBytes(self, size)

    def has_room(self, size: int) -> bool:
        """Say whether `take` gives so many bytes at once."""
        return not self._waiting and self._fits(size)

    def _change(self, by: int) -> None:
        self._used += by
        while self._waiting:
            size, turn = self._waiting[0]
            if not turn.cancelled():
                if not self._fits(size):
                    return
                self._used += size
                turn.set_result(None)
            self._waiting.popleft()

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self.max_bytes


class HeldBytes:
    """Bytes of a budget that are held until `resize` gives them back."""

    def __init__(self, budget: ByteBudget, size: int) -> None:
        self._budget = budget
        self._size = size

    def resize(self, size: int) -> None:
        """Hold so many bytes from now on, without waiting; 0 gives all back."""
        by, self._size = size - self._size, size
        if by:
            self._budget._change(by)
