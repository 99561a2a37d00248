"""Brings the service up, whether or not its database and object store are there yet."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import numpy as np
from magface.v1 import feedback_pb2_grpc

from services.feedback.api.pairs_servicer import Active
from services.feedback.api.servicer import FeedbackServicer
from services.feedback.erasure.retention import keep_in_order, opened_keeping
from services.feedback.images.vault import opened_vault
from services.feedback.labels.batch_writer import BatchWriter
from services.feedback.labels.consensus_view import DerivedBy, derived_by, follow_rule
from services.feedback.labels.label_log import Ledger
from services.feedback.labels.service import FeedbackStore
from services.feedback.pool.calibration import Curves
from services.feedback.pool.embedder_client import open_embedder
from services.feedback.pool.importer import ImagePool
from services.feedback.pool.indexer import PoolFollower
from services.feedback.selection.annotator_stats import Annotators
from services.feedback.selection.candidate_queue import Preparer
from services.feedback.selection.maintenance import Tender
from services.feedback.selection.pair_leases import LeaseOffice, Sharing
from services.feedback.settings import FeedbackSettings
from shared.rpc.server.lifecycle import Lifecycle
from shared.storage.migrations import apply_migrations
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, open_pool
from shared.storage.retry import retry_until_available


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


logger = logging.getLogger(__name__)

SCHEMA: Final = "feedback"
MIGRATIONS: Final = Path(__file__).with_name("migrations")


@asynccontextmanager
async def feedback_service(
    settings: FeedbackSettings, server: grpc.aio.Server, lifecycle: Lifecycle
) -> AsyncIterator[None]:
    """Add the service to a server; it is ready once its stores can be reached.

    Raises:
        PreconditionFailed: At the end, if the database cannot be migrated; the process has
            then sent itself SIGTERM.
    """
    servicer = FeedbackServicer(settings.feedback_stream_labels)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(servicer, server)
    objects = ObjectStore(settings)
    async with (
        opened_store(settings, objects) as (store, pool),
        opened_active(settings, objects, pool) as active,
        opened_keeping(settings, objects, pool) as keeping,
    ):

        async def come_up() -> None:
            await prepare(settings, objects)
            servicer.store.set(store)
            servicer.active.set(active)
            servicer.keeping.set(keeping)
            await lifecycle.set_ready(True)
            _warn_of_weights(settings, await retry_until_available(partial(derived_by, pool)))
            await retry_until_available(partial(follow_rule, pool, settings.feedback_minimum_votes))
            await asyncio.gather(keep_in_order(settings, objects, keeping), active.tender.run())

        opening = asyncio.create_task(come_up())
        opening.add_done_callback(_stop_if_failed)
        try:
            yield
        finally:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await opening


@asynccontextmanager
async def opened_store(
    settings: FeedbackSettings, objects: ObjectStore
) -> AsyncIterator[tuple[FeedbackStore, Pool]]:
    """Put a store together, without waiting for what it stands on."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings)
        stack.push_async_callback(pool.close)
        vault = stack.enter_context(opened_vault(settings, objects))
        ledger = Ledger(pool, settings.feedback_minimum_votes)
        writer = BatchWriter(
            ledger,
            batch=settings.feedback_batch_labels,
            queued=settings.feedback_queued_labels,
            wait_s=2 * settings.database_timeout_s,
        )
        await stack.enter_async_context(writer)
        store = FeedbackStore(pool, vault, ledger, writer, settings.feedback_minimum_votes)
        yield store, pool


async def prepare(settings: FeedbackSettings, objects: ObjectStore) -> None:
    """Wait for database and object store, and bring both to where the service needs them.

    Raises:
        PreconditionFailed: If the database cannot be migrated.
    """

    async def attempt() -> None:
        url = settings.database_url.get_secret_value()
        await asyncio.to_thread(apply_migrations, url, SCHEMA, MIGRATIONS)
        await asyncio.to_thread(objects.ensure_bucket)

    await retry_until_available(attempt)


def _warn_of_weights(settings: FeedbackSettings, stored: DerivedBy | None) -> None:
    rules = {settings.feedback_consensus, "majority" if stored is None else stored.rule}
    if rules != {"majority"}:
        logger.warning(
            "weighted consensus was removed and MAGFACE_FEEDBACK_CONSENSUS is ignored: "
            "consensus is derived by majority now"
        )


def _stop_if_failed(opening: asyncio.Task[None]) -> None:
    if not opening.cancelled() and (error := opening.exception()):
        logger.critical("the service cannot start: %s", error)
        signal.raise_signal(signal.SIGTERM)
