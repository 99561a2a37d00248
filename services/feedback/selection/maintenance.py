"""Tends the pool in the background: embeds it, and keeps pairs prepared."""

import asyncio
import logging

from services.feedback.pool.index_versions import LeaderConnection, leading
from services.feedback.pool.indexer import PoolIndexer
from services.feedback.selection.candidate_queue import CandidateQueue
from shared.errors import MagFaceError
from shared.settings import DatabaseSettings

logger = logging.getLogger(__name__)


class PoolMaintenance:
    """Does what one process at a time does for the pool; the others stand by.

    Args:
        settings: Where the database is.
        follower: Embeds the pool; None where there is no embedder.
        preparer: Prepares pairs.
        wake: Set when pairs have run short.
        poll_s: How often to look, in seconds.
    """

    def __init__(
        self,
        settings: DatabaseSettings,
        follower: PoolIndexer | None,
        preparer: CandidateQueue,
        *,
        wake: asyncio.Event,
        poll_s: float,
    ) -> None:
        self._settings = settings
        self._follower = follower
        self._preparer = preparer
        self._wake = wake
        self._poll_s = poll_s
        self._said = ""

    async def run(self) -> None:
        """Tend the pool until cancelled, whatever goes away meanwhile."""
        while True:
            try:
                async with leading(self._settings) as lead:
                    while lead is not None:
                        await self._tend(lead)
            except MagFaceError as error:
                self._say(str(error))
            except Exception:
                logger.exception("tending the pool failed; it is tried again")
            await self._pause()

    async def _tend(self, lead: LeaderConnection) -> None:
        await lead.confirm()
        busy = await self._follow(lead)
        await self._preparer.round()
        if not busy:
            await self._pause()

    async def _follow(self, lead: LeaderConnection) -> bool:
        """Embed a page; without an embedder pairs are prepared all the same."""
        if self._follower is None:
            return False
        try:
            return await self._follower.step(lead)
        except MagFaceError as error:
            self._say(f"the pool is not embedded further now: {error}")
            return False

    async def _pause(self) -> None:
        try:
            await asyncio.wait_for(self._wake.wait(), self._poll_s)
            # Whoever ran short asks again soon: neither at once nor all the time.
            await asyncio.sleep(min(self._poll_s, 0.2))
        except TimeoutError:
            pass
        self._wake.clear()

    def _say(self, what: str) -> None:
        if what != self._said:
            logger.warning("%s", what)
            self._said = what
