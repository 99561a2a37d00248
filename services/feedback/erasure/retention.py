"""What keeps the stores in order meanwhile: erasures finished, old images erased, orphans swept."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from services.feedback.erasure.eraser import Eraser
from services.feedback.images.vault import opened_vault
from services.feedback.settings import FeedbackSettings
from shared.errors import MagFaceError
from shared.storage.objects import ObjectStore, image_key
from shared.storage.postgres import Pool

logger = logging.getLogger(__name__)

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# Longer than any upload takes: nothing else protects what has no image's name.
_STRAY_GRACE: Final = timedelta(hours=1)
_LISTED_AT_ONCE: Final = 500
_FINISH_EVERY_S: Final = 5.0
_EXPIRE_EVERY_S: Final = 600.0
# The removal of an object waits its turn for up to three timeouts, and tries up to three times.
_LEASE_TIMEOUTS: Final = 8


@dataclass(frozen=True, slots=True)
class Keeping:
    """What erases, and the database that says what was erased."""

    eraser: Eraser
    pool: Pool


@asynccontextmanager
async def opened_keeping(
    settings: FeedbackSettings, objects: ObjectStore, pool: Pool
) -> AsyncIterator[Keeping]:
    """Put together what erases, without waiting for what it stands on."""
    with opened_vault(settings, objects) as vault:
        eraser = Eraser(pool, vault, objects, lease_s=_LEASE_TIMEOUTS * settings.s3_timeout_s)
        try:
            yield Keeping(eraser, pool)
        finally:
            await eraser.close()


async def keep_in_order(settings: FeedbackSettings, objects: ObjectStore, keeping: Keeping) -> None:
    """Finish erasures, apply the retention and sweep orphans, each at its pace, for ever."""
    eraser = keeping.eraser
    grace = timedelta(seconds=settings.feedback_orphan_grace_s)

    async def expire() -> None:
        if settings.feedback_retention_days is not None:
            age = timedelta(days=settings.feedback_retention_days)
            await eraser.erase_older(datetime.now(UTC) - age)

    async def clear() -> None:
        await sweep(objects, eraser, grace, max(grace, _STRAY_GRACE))
        # A training that was killed in between may have left one that names erased images.
        await eraser.clear_reports()

    await asyncio.gather(
        _repeat(eraser.finish, _FINISH_EVERY_S),
        _repeat(expire, _EXPIRE_EVERY_S),
        _repeat(clear, settings.feedback_sweep_every_s),
    )


async def sweep(
    objects: ObjectStore, eraser: Eraser, grace: timedelta, stray_grace: timedelta
) -> None:
    """Remove image objects without a row that are older than a grace period.

    The grace is a courtesy to uploads under way, which would have to begin anew; that none is
    harmed does not rest on it, nor on clocks that agree (see `removals.py`).

    Args:
        objects: The bucket.
        eraser: Removes the objects.
        grace: Age from which the object of an image without a row is removed.
        stray_grace: Age from which anything below ``images/`` is removed that has no image's
            name, such as what a store that was killed in an upload shows of it.

    Raises:
        Unavailable: If a store cannot be reached; the next sweep goes on.
    """
    listing = objects.list("images/")
    while page := await asyncio.to_thread(lambda: list(islice(listing, _LISTED_AT_ONCE))):
        now = datetime.now(UTC)
        named = {found.key.rpartition("/")[2]: found for found in page if _is_image(found.key)}
        if old := [name for name, found in named.items() if found.modified_at <= now - grace]:
            await eraser.remove_orphans(old)
        for found in page:
            if not _is_image(found.key) and found.modified_at <= now - stray_grace:
                await asyncio.to_thread(objects.remove, found.key)


def _is_image(key: str) -> bool:
    name = key.rpartition("/")[2]
    return _SHA256.fullmatch(name) is not None and key == image_key(name)


async def _repeat(work: Callable[[], Awaitable[None]], every_s: float) -> None:
    while True:
        try:
            await work()
        except MagFaceError as error:
            logger.warning("not done yet, trying again later: %s", error)
        except Exception:
            # One kind of work that fails must not end the others.
            logger.exception("keeping order failed, trying again later")
        await asyncio.sleep(every_s)
