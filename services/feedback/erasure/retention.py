"""Retention: background jobs that finish erasures, erase old images and sweep orphans."""

import asyncio
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from services.feedback.erasure.eraser import Eraser
from shared.runtime import repeat
from shared.storage.objects import IMAGES_PREFIX, ObjectStore, image_key

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
# Longer than any upload takes: only its age protects an object that has no image's name.
_STRAY_GRACE: Final = timedelta(hours=1)
_LISTED_AT_ONCE: Final = 500
_FINISH_EVERY_S: Final = 5.0
_EXPIRE_EVERY_S: Final = 600.0
_FORGET_EVERY_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class RetentionPolicy:
    """What is removed without a request.

    Attributes:
        max_age: Age from which images are erased; None keeps them.
        orphan_grace: Age from which the object of an image without a row is removed.
        sweep_every_s: Pause between two sweeps, in seconds.
    """

    max_age: timedelta | None
    orphan_grace: timedelta
    sweep_every_s: float


async def run_retention(policy: RetentionPolicy, objects: ObjectStore, eraser: Eraser) -> None:
    """Run all background jobs of erasure until cancelled."""

    async def expire() -> None:
        if policy.max_age is not None:
            await eraser.erase_older(datetime.now(UTC) - policy.max_age)

    async def sweep() -> None:
        grace = policy.orphan_grace
        await sweep_orphans(objects, eraser, grace, max(grace, _STRAY_GRACE))
        # A trainer killed at the wrong moment may have left a report that names erased images.
        await eraser.clear_derived()

    await asyncio.gather(
        repeat("finishing of erasures", eraser.finish, _FINISH_EVERY_S),
        repeat("erasure of old images", expire, _EXPIRE_EVERY_S),
        repeat("removal of old tombstones", eraser.forget_tombstones, _FORGET_EVERY_S),
        repeat("sweep of orphaned objects", sweep, policy.sweep_every_s),
    )


async def sweep_orphans(
    objects: ObjectStore, eraser: Eraser, grace: timedelta, stray_grace: timedelta
) -> None:
    """Remove objects of images that have no row and are older than a grace period.

    The grace period spares uploads under way a second attempt. Their safety does not depend on
    it, nor on synchronized clocks (see `upload_fence.py`).

    Args:
        objects: The bucket.
        eraser: Removes the objects.
        grace: Age from which the object of an image without a row is removed.
        stray_grace: Age from which any other object below ``images/`` is removed, such as a
            temporary file of an object store that was killed during an upload.

    Raises:
        Unavailable: If a store does not answer; the next sweep continues.
    """
    listing = objects.list(IMAGES_PREFIX)
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
