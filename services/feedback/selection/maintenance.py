"""Pool maintenance: the background job that indexes the pool and refills the candidate queue."""

import asyncio
from typing import Final, NoReturn

from services.feedback.pool.indexer import PoolIndexer
from services.feedback.pool.leadership import LeaderConnection, PoolLeadership
from services.feedback.selection.candidate_queue import CandidateQueue
from shared.errors import MagFaceError
from shared.runtime import repeat

_WOKEN_PAUSE_S: Final = 0.2


class PoolMaintenance:
    """Maintains the pool in one process at a time; the other processes stand by.

    Args:
        leadership: Which process it is.
        indexer: Embeds the pool; None without an embedder.
        queue: The candidate queue.
        wake: Set when annotators asked for more pairs than there were.
        poll_s: How often to look for work, in seconds.
    """

    def __init__(
        self,
        leadership: PoolLeadership,
        indexer: PoolIndexer | None,
        queue: CandidateQueue,
        *,
        wake: asyncio.Event,
        poll_s: float,
    ) -> None:
        self._leadership = leadership
        self._indexer = indexer
        self._queue = queue
        self._wake = wake
        self._poll_s = poll_s
        self._busy = True

    async def run(self) -> NoReturn:
        """Maintain the pool until cancelled."""
        try:
            await repeat("maintenance of the pool", self._step, every_s=0)
        finally:
            await self._leadership.release()

    async def _step(self) -> None:
        if not self._busy:
            await self._pause()
        self._busy = False
        leader = await self._leadership.acquire()
        if leader is not None:
            self._busy = await self._maintain(leader)

    async def _maintain(self, leader: LeaderConnection) -> bool:
        """Index one page and refill the queue; says whether more can be indexed at once."""
        more = False
        try:
            if self._indexer is not None:
                more = await self._indexer.step(leader)
        except MagFaceError:
            # Pairs can be selected without the embedder.
            await self._queue.refill()
            raise
        await self._queue.refill()
        return more

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), self._poll_s)
            # Annotators who got too few pairs ask again and again: bound the rate.
            await asyncio.sleep(min(self._poll_s, _WOKEN_PAUSE_S))
        except TimeoutError:
            pass
        self._wake.clear()
