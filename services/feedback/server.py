"""Server of the feedback service: assembles its parts and starts them."""

import asyncio
import logging
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final, TypeAlias

import grpc
import numpy as np
from magface.v1 import feedback_pb2_grpc

from services.feedback.api.erasure_servicer import ErasureBackend
from services.feedback.api.pairs_servicer import PairsBackend
from services.feedback.api.servicer import FeedbackServicer
from services.feedback.erasure.audit import AuditLog
from services.feedback.erasure.eraser import Eraser
from services.feedback.erasure.held import HeldErasures
from services.feedback.erasure.retention import RetentionPolicy, run_retention
from services.feedback.images.damaged import DamagedImages
from services.feedback.images.object_check import ObjectCheck
from services.feedback.images.vault import ImageVault
from services.feedback.labels.batch_writer import BatchWriter
from services.feedback.labels.consensus_view import ConsensusRule, apply_rule, read_rule
from services.feedback.labels.label_log import LabelLog
from services.feedback.labels.service import LabelService
from services.feedback.pool.calibration import Calibrations
from services.feedback.pool.embedder_client import open_embedder
from services.feedback.pool.importer import PoolImporter
from services.feedback.pool.indexer import PoolIndexer
from services.feedback.pool.leadership import PoolLeadership
from services.feedback.selection.annotator_stats import AnnotatorStats
from services.feedback.selection.candidate_queue import CandidateQueue
from services.feedback.selection.image_access import ImageAccess
from services.feedback.selection.maintenance import PoolMaintenance
from services.feedback.selection.pair_leases import LeasePolicy, PairLeaser
from services.feedback.settings import FeedbackSettings
from shared.decoding.admission import Admission
from shared.decoding.pool import DecodePool
from shared.decoding.settings import memory_share, pixels_in_flight
from shared.rpc.server.lifecycle import Lifecycle
from shared.runtime import end_task
from shared.storage.migrations import apply_migrations
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, open_pool
from shared.storage.readiness import follow_database
from shared.storage.retry import retry_until_available

NewVault: TypeAlias = Callable[[], ImageVault]

logger = logging.getLogger(__name__)

SCHEMA: Final = "feedback"
MIGRATIONS: Final = Path(__file__).with_name("migrations")
# The removal of an object may wait for a thread for three timeouts and take three attempts.
_REMOVAL_TIMEOUTS: Final = 8


@asynccontextmanager
async def feedback_service(
    settings: FeedbackSettings, server: grpc.aio.Server, lifecycle: Lifecycle
) -> AsyncIterator[None]:
    """Add the service to a server; it becomes ready once its stores answer.

    Raises:
        PreconditionFailed: At the end, if the database cannot be migrated. The process has then
            sent itself SIGTERM.
    """
    servicer = FeedbackServicer(settings.feedback_stream_labels, lifecycle.stream_budget)
    feedback_pb2_grpc.add_FeedbackServiceServicer_to_server(servicer, server)
    objects, damaged = ObjectStore(settings), DamagedImages()
    async with (
        open_vaults(settings, objects, damaged) as new_vault,
        open_label_service(settings, new_vault) as (labels, pool),
        open_pairs_backend(settings, objects, new_vault, pool) as (pairs, maintenance),
        open_erasure_backend(settings, objects, new_vault, pool) as erasure,
    ):

        async def start() -> None:
            await prepare_stores(settings, objects)
            servicer.labels.set(labels)
            servicer.pairs.set(pairs)
            servicer.erasure.set(erasure)
            await lifecycle.set_ready(True)
            await _apply_consensus_rule(settings, pool)
            await asyncio.gather(
                follow_database(settings, lifecycle.set_ready),
                run_retention(_retention_policy(settings), objects, erasure.eraser, erasure.held),
                maintenance.run(),
                ObjectCheck(pool, objects, damaged).run(
                    settings.feedback_sweep_every_s, settings.feedback_read_back_every_s
                ),
            )

        running = asyncio.create_task(start())
        running.add_done_callback(_stop_if_failed)
        try:
            yield
        finally:
            await end_task(running)


async def prepare_stores(settings: FeedbackSettings, objects: ObjectStore) -> None:
    """Migrate the database and create the bucket, as soon as both stores answer.

    Raises:
        PreconditionFailed: If the database cannot be migrated.
    """

    async def attempt() -> None:
        url = settings.database_url.get_secret_value()
        await asyncio.to_thread(apply_migrations, url, SCHEMA, MIGRATIONS)
        await asyncio.to_thread(objects.ensure_bucket)

    await retry_until_available("preparation of the stores", attempt)


@asynccontextmanager
async def open_vaults(
    settings: FeedbackSettings, objects: ObjectStore, damaged: DamagedImages
) -> AsyncIterator[NewVault]:
    """Give the function that makes vaults, which share the decode processes."""
    decoders = DecodePool(settings)
    admission = Admission(
        settings.feedback_queued_labels,
        memory_share(settings.memory_bytes),
        pixels_in_flight(settings),
    )
    decoders.start()
    try:
        yield partial(
            ImageVault,
            objects,
            decoders,
            admission,
            settings.feedback_image_threads,
            wait_s=3 * settings.s3_timeout_s,
            damaged=damaged,
        )
    finally:
        await asyncio.to_thread(decoders.stop)


@asynccontextmanager
async def open_label_service(
    settings: FeedbackSettings, new_vault: NewVault
) -> AsyncIterator[tuple[LabelService, Pool]]:
    """Assemble the label service, without waiting for its stores.

    Yields:
        The service, and its connections to the database.
    """
    async with AsyncExitStack() as stack:
        pool = await open_pool(settings)
        stack.push_async_callback(pool.close)
        vault = stack.enter_context(new_vault())
        log = LabelLog(pool, settings.feedback_minimum_votes)
        writer = BatchWriter(
            log,
            batch=settings.feedback_batch_labels,
            queued=settings.feedback_queued_labels,
            wait_s=2 * settings.database_timeout_s,
        )
        await stack.enter_async_context(writer)
        yield LabelService(pool, vault, log, writer, settings.feedback_minimum_votes), pool


@asynccontextmanager
async def open_pairs_backend(
    settings: FeedbackSettings, objects: ObjectStore, new_vault: NewVault, pool: Pool
) -> AsyncIterator[tuple[PairsBackend, PoolMaintenance]]:
    """Assemble pool and selection, without waiting for their stores."""
    wake = asyncio.Event()
    queue = CandidateQueue(
        pool,
        np.random.default_rng(),
        overlap=settings.feedback_overlap,
        target=settings.feedback_candidates,
    )
    async with AsyncExitStack() as stack:
        vault = stack.enter_context(new_vault())
        indexer = None
        if settings.embedder_address is not None:
            embedder = await stack.enter_async_context(
                open_embedder(settings.embedder_address, settings)
            )
            indexer = PoolIndexer(
                pool,
                vault,
                embedder,
                get_calibration=Calibrations(objects).get,
                on_complete=queue.add_disagreements,
            )
        maintenance = PoolMaintenance(
            PoolLeadership(settings),
            indexer,
            queue,
            wake=wake,
            poll_s=settings.feedback_pool_poll_s,
        )
        leaser = PairLeaser(pool, _lease_policy(settings), wake.set)
        backend = PairsBackend(
            PoolImporter(pool, vault), leaser, AnnotatorStats(pool), ImageAccess(pool)
        )
        yield backend, maintenance


@asynccontextmanager
async def open_erasure_backend(
    settings: FeedbackSettings, objects: ObjectStore, new_vault: NewVault, pool: Pool
) -> AsyncIterator[ErasureBackend]:
    """Assemble erasure, without waiting for its stores."""
    with new_vault() as vault:
        eraser = Eraser(
            pool,
            vault,
            objects,
            lease_s=_REMOVAL_TIMEOUTS * settings.s3_timeout_s,
            tombstone_days=settings.feedback_tombstone_days,
        )
        try:
            held = HeldErasures(pool, settings.feedback_daily_erasure_share)
            yield ErasureBackend(eraser, AuditLog(pool), held)
        finally:
            await eraser.close()


def _lease_policy(settings: FeedbackSettings) -> LeasePolicy:
    return LeasePolicy(
        lease_s=settings.feedback_lease_s,
        random_share=settings.feedback_random_share,
        gold_share=settings.feedback_gold_share,
        has_embedder=settings.embedder_address is not None,
    )


def _retention_policy(settings: FeedbackSettings) -> RetentionPolicy:
    return RetentionPolicy(
        max_days=settings.feedback_retention_days,
        orphan_grace=timedelta(seconds=settings.feedback_orphan_grace_s),
        sweep_every_s=settings.feedback_sweep_every_s,
    )


async def _apply_consensus_rule(settings: FeedbackSettings, pool: Pool) -> None:
    name = "derivation of the consensus"
    _warn_of_weights(settings, await retry_until_available(name, partial(read_rule, pool)))
    await retry_until_available(name, partial(apply_rule, pool, settings.feedback_minimum_votes))


def _warn_of_weights(settings: FeedbackSettings, stored: ConsensusRule | None) -> None:
    methods = {settings.feedback_consensus, "majority" if stored is None else stored.method}
    if methods != {"majority"}:
        logger.warning(
            "weighted consensus was removed and MAGFACE_FEEDBACK_CONSENSUS is ignored: "
            "consensus is derived by majority"
        )


def _stop_if_failed(running: asyncio.Task[None]) -> None:
    if not running.cancelled() and (error := running.exception()):
        logger.critical("the service cannot start: %s", error)
        signal.raise_signal(signal.SIGTERM)
