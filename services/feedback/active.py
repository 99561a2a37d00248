"""Puts together what chooses the pairs to label."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import numpy as np

from services.feedback.annotators import Annotators
from services.feedback.curves import Curves
from services.feedback.embeddings import PoolFollower
from services.feedback.images import opened_vault
from services.feedback.leases import LeaseOffice, Sharing
from services.feedback.pool import ImagePool
from services.feedback.preparing import Preparer
from services.feedback.settings import FeedbackSettings
from services.feedback.tending import Tender
from shared.client import open_embedder
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool


@dataclass(frozen=True, slots=True)
class Active:
    """The image pool, who hands out its pairs and to whom, and who tends it meanwhile."""

    images: ImagePool
    office: LeaseOffice
    annotators: Annotators
    tender: Tender


@asynccontextmanager
async def opened_active(
    settings: FeedbackSettings, objects: ObjectStore, pool: Pool
) -> AsyncIterator[Active]:
    """Put the parts together, without waiting for what they stand on."""
    wake = asyncio.Event()
    preparer = Preparer(
        pool,
        np.random.default_rng(),
        overlap=settings.feedback_overlap,
        target=settings.feedback_candidates,
    )
    async with AsyncExitStack() as stack:
        vault = stack.enter_context(opened_vault(settings, objects))
        follower = None
        if settings.embedder_address is not None:
            embedder = await stack.enter_async_context(open_embedder(settings.embedder_address))
            follower = PoolFollower(
                pool,
                vault,
                embedder,
                curves=Curves(objects).of,
                swapped=preparer.compare,
            )
        tender = Tender(
            settings, follower, preparer, wake=wake, poll_s=settings.feedback_pool_poll_s
        )
        office = LeaseOffice(pool, _sharing(settings), wake.set)
        yield Active(ImagePool(pool, vault), office, Annotators(pool), tender)


def _sharing(settings: FeedbackSettings) -> Sharing:
    return Sharing(
        lease_s=settings.feedback_lease_s,
        random_share=settings.feedback_random_share,
        gold_share=settings.feedback_gold_share,
        follows_embedder=settings.embedder_address is not None,
    )
