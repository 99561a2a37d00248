"""Estimates annotators' weights anew in the background, and has every consensus follow them."""

import asyncio
import logging
from typing import Final

from services.feedback import weighting_queries as queries
from services.feedback.ballots import read_ballots
from services.feedback.derive import follow_rule
from services.feedback.pool_versions import leading
from services.feedback.reliability import estimate
from services.feedback.rules import Rules
from services.feedback.weightings import Stored, keep, look
from shared.errors import MagFaceError
from shared.settings import DatabaseSettings
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)

_LOOK_EVERY_S: Final = 10.0
# Bounds memory; with more, the newest pairs tell.
_MOST_VOTES: Final = 2_000_000
# So many labels more, as a share and at least, and annotators are looked at anew.
_GROWN: Final = 0.05
_GROWN_LABELS: Final = 20


class Weigher:
    """Keeps the weights of annotators as good as the labels allow.

    Args:
        pool: Connections to a database with the schema `feedback`.
        rules: Which rule judges.
    """

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self._pool = pool
        self._rules = rules
        self._seen: Stored | None = None

    async def run(self, settings: DatabaseSettings) -> None:
        """Look again and again, one process at a time, whatever goes away meanwhile.

        Ends only where annotators are not weighted, which is at once.
        """
        while self._rules.weighted:
            try:
                async with leading(settings, "feedback weights") as lead:
                    while lead is not None:
                        await lead.confirm()
                        await self.round()
                        await asyncio.sleep(_LOOK_EVERY_S)
            except MagFaceError as error:
                logger.warning("annotators are not weighted anew now: %s", error)
            except Exception:
                logger.exception("weighing annotators failed; it is tried again")
            await asyncio.sleep(_LOOK_EVERY_S)

    async def round(self) -> None:
        """Estimate anew if there is enough to learn from, and derive what follows from it.

        Raises:
            Unavailable: If the database cannot answer.
            Conflict: If a concurrent change came first; the next round does it again.
        """
        now, then = await look(self._pool)
        if _outgrew(now, self._seen or then):
            ballots = await read_ballots(self._pool, _MOST_VOTES)
            found = await asyncio.to_thread(estimate, ballots)
            if await keep(self._pool, found, now):
                logger.info(
                    "weighted %d annotators by %d votes on %d pairs",
                    len(found.names),
                    found.votes,
                    found.pairs,
                )
            self._seen = now
        # Also where a crash came between new weights and what follows from them.
        await follow_rule(self._pool, self._rules)
        async with transaction(self._pool) as connection:
            await connection.execute(queries.FORGET_WEIGHTINGS)


def _outgrew(now: Stored, then: Stored | None) -> bool:
    if then is None or now.audit_id != then.audit_id:
        return True
    return abs(now.labels - then.labels) >= max(_GROWN_LABELS, _GROWN * then.labels)
