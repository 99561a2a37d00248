"""Puts together what chooses the pairs to label."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from services.feedback.images import ImageVault
from services.feedback.leases import LeaseOffice, Sharing
from services.feedback.pool import ImagePool
from services.feedback.settings import FeedbackSettings
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool


@dataclass(frozen=True, slots=True)
class Active:
    """The image pool, and who hands out its pairs."""

    images: ImagePool
    office: LeaseOffice


@asynccontextmanager
async def opened_active(
    settings: FeedbackSettings, objects: ObjectStore, pool: Pool
) -> AsyncIterator[Active]:
    """Put the parts together, without waiting for what they stand on."""
    vault = ImageVault(
        objects, settings, settings.feedback_image_threads, wait_s=3 * settings.s3_timeout_s
    )
    wake = asyncio.Event()
    try:
        yield Active(ImagePool(pool, vault), LeaseOffice(pool, _sharing(settings), wake.set))
    finally:
        vault.close()


def _sharing(settings: FeedbackSettings) -> Sharing:
    return Sharing(
        lease_s=settings.feedback_lease_s,
        random_share=settings.feedback_random_share,
        gold_share=settings.feedback_gold_share,
        follows_embedder=settings.embedder_address is not None,
    )
