"""Held erasures: what a rule would erase beyond the operator's daily share waits for approval.

Rules are the retention by age and the sweep of orphaned objects. A wrong clock, an empty database
or a mistaken setting makes them take far more than on other days. They stop then and erase nothing
until somebody approves it.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from prometheus_client import Gauge

from services.feedback.erasure import queries
from shared.errors import NotFound, PreconditionFailed
from shared.storage.postgres import Pool, fetch, transaction

logger = logging.getLogger(__name__)

_HELD: Final = Gauge(
    "magface_feedback_held_erasure_images",
    "Images that a rule would erase and that wait for approval",
    ["rule"],
)


class ErasureRule(StrEnum):
    RETENTION = "retention"
    ORPHANS = "orphans"


# What a day may take whatever the share: the leftovers of a killed import are no sign of a mistake.
_ALWAYS_ALLOWED: Final = {ErasureRule.RETENTION: 1, ErasureRule.ORPHANS: 100}


@dataclass(frozen=True, slots=True)
class HeldErasure:
    """An erasure by rule that waits for approval.

    Attributes:
        images: How many images or objects it would take.
        before: Those stored before this moment; None for orphans.
        approved_by: None while nobody has approved it.
    """

    rule: ErasureRule
    images: int
    before: datetime | None
    held_since: datetime
    approved_by: str | None


class HeldErasures:
    """Compares what rules would erase with the share, and keeps what is held.

    Args:
        pool: Connections to a database with the schema `feedback`.
        daily_share: Largest share of the images that a rule may erase within 24 hours, 0..1.
    """

    def __init__(self, pool: Pool, daily_share: float) -> None:
        self._pool = pool
        self._daily_share = daily_share

    async def admit(
        self, rule: ErasureRule, wanted: int, stored: int, before: datetime | None = None
    ) -> HeldErasure | None:
        """Decide whether a rule may erase images now.

        Args:
            rule: The rule.
            wanted: How many it would erase.
            stored: How many there are, those included.
            before: See `HeldErasure`.

        Returns:
            None if they are within the share, or what is held; it may be erased once it is
            approved.

        Raises:
            Unavailable: If the database does not answer.
        """
        ((taken,),) = await fetch(self._pool, _TAKEN[rule], {})
        share = math.ceil(self._daily_share * (stored + taken))
        if wanted <= max(share, _ALWAYS_ALLOWED[rule]) - taken:
            await self.release(rule)
            return None
        values = {"rule": rule, "images": wanted, "before": before}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.HOLD, values)
            is_new = cursor.rowcount > 0
            (held,) = await _read(connection, values)
        _HELD.labels(rule).set(held.images)
        if is_new:
            logger.error(
                "%s would erase %d of %d images, after %d in the last 24 hours; more than %g %% a"
                " day need approval. If that is right, approve it with `magface feedback"
                " approve-erasure %s --images %d`; else check the clock of Postgres, the settings"
                " and the database",
                *(rule, wanted, stored, taken, 100 * self._daily_share, rule, held.images),
            )
        return held

    async def release(self, rule: ErasureRule) -> None:
        """Forget what is held of a rule, because it was erased or is within the share now.

        Raises:
            Unavailable: If the database does not answer.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries.RELEASE, {"rule": rule})
        _HELD.labels(rule).set(0)

    async def record_sweep(self, objects: int) -> None:
        """Count objects without a row that are about to be removed without approval.

        Raises:
            Unavailable: If the database does not answer.
        """
        async with transaction(self._pool) as connection:
            await connection.execute(queries.FORGET_SWEEPS)
            await connection.execute(queries.RECORD_SWEEP, {"objects": objects})

    async def list(self) -> Sequence[HeldErasure]:
        """List what is held.

        Raises:
            Unavailable: If the database does not answer.
        """
        async with transaction(self._pool) as connection:
            return await _read(connection, {"rule": None})

    async def approve(self, rule: str, images: int, requested_by: str) -> HeldErasure:
        """Approve what is held of a rule; it is erased when the rule is next applied.

        Args:
            rule: The rule.
            images: How many images, as it was listed.
            requested_by: Who approves it.

        Raises:
            NotFound: If nothing is held of the rule.
            PreconditionFailed: If it is another number of images now.
            Unavailable: If the database does not answer.
        """
        values = {"rule": rule, "images": images, "approved_by": requested_by}
        async with transaction(self._pool) as connection:
            approved = await connection.execute(queries.APPROVE, values)
            found = await _read(connection, values)
            if not found:
                raise NotFound(f"rule: no erasure by {rule!r} waits for approval")
            if not approved.rowcount:
                raise PreconditionFailed(
                    f"images: {found[0].images} images wait for approval now, not {images}"
                )
        logger.warning("%s approved the erasure of %d images by %s", requested_by, images, rule)
        return found[0]


_TAKEN: Final = {
    ErasureRule.RETENTION: queries.TAKEN_BY_RETENTION,
    ErasureRule.ORPHANS: queries.TAKEN_BY_SWEEPS,
}


async def _read(connection: Any, values: dict[str, Any]) -> list[HeldErasure]:
    cursor = await connection.execute(queries.HELD, values)
    return [HeldErasure(ErasureRule(rule), *rest) for rule, *rest in await cursor.fetchall()]
