"""Composition of the trainer: settings, stores, jobs, registry and the gRPC service."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import grpc
from magface.v1 import trainer_pb2_grpc

from services.trainer.api.service import Trainer
from services.trainer.api.servicer import TrainerServicer
from services.trainer.jobs.bootstrap import import_default_if_empty
from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.folders import JOB_FOLDERS, JobFolders
from services.trainer.jobs.janitor import Janitor
from services.trainer.jobs.leases import JobLeases
from services.trainer.jobs.queue import JobQueue
from services.trainer.jobs.runner import JobRunner, worker_command
from services.trainer.jobs.uploads import UPLOAD_FILES, UploadStore
from services.trainer.registry.evaluations import EvaluationStore
from services.trainer.registry.operating_points import OperatingPoints
from services.trainer.registry.replicas import ReplicaWatch
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.shadow import ShadowPublisher
from services.trainer.registry.suspects import SuspectLabels
from services.trainer.registry.version_signatures import sign_versions
from services.trainer.registry.versions import VersionRegistry
from services.trainer.settings import TrainerSettings
from services.trainer.worker.memory import memory_limit
from shared.files import clean_scratch, make_folder
from shared.registry.signed_objects import SignedObjects
from shared.registry.version_store import VersionStore
from shared.rpc.server.lifecycle import Lifecycle
from shared.storage.migrations import apply_migrations
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, open_pool
from shared.storage.readiness import follow_database
from shared.storage.retry import retry_until_available

SERVICE_NAME: Final = "magface.v1.TrainerService"
SCHEMA: Final = "trainer"
MIGRATIONS: Final = Path(__file__).with_name("migrations")


@asynccontextmanager
async def trainer_service(
    settings: TrainerSettings, server: grpc.aio.Server, lifecycle: Lifecycle
) -> AsyncIterator[None]:
    """Add the service to a server. It is ready once its stores can be reached.

    Raises:
        ExceptionGroup: Of a PreconditionFailed, if the database cannot be migrated or a store
            refuses the credentials; the server stops then.
    """
    make_folder(settings.work_dir, "MAGFACE_WORK_DIR")
    servicer = TrainerServicer(lifecycle.stopping)
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)
    objects = SignedObjects(
        settings, trusted=settings.model_jwks, signing_key=settings.model_signing_key
    )
    pool = await open_pool(settings)
    try:
        with clean_scratch(settings.work_dir, f"{UPLOAD_FILES}*", f"{JOB_FOLDERS}*"):
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(_serve(settings, pool, objects, servicer, lifecycle))
                yield
                serving.cancel()
    finally:
        await pool.close()


async def _serve(
    settings: TrainerSettings,
    pool: Pool,
    objects: ObjectStore,
    servicer: TrainerServicer,
    lifecycle: Lifecycle,
) -> None:
    """Prepare the stores, answer calls, and run jobs and background loops until cancelled."""
    await _prepare_stores(settings, pool, objects)
    if settings.model_signing_key is not None:
        await retry_until_available("signing of versions", partial(_sign, settings, pool, objects))
    pointer = ServingPointerPublisher(pool, objects)
    replicas = ReplicaWatch(objects)
    servicer.trainer.set(_trainer(settings, pool, objects, pointer, replicas))
    await lifecycle.set_ready(True)
    folders = JobFolders(objects, settings.work_dir)
    runner = _runner(settings, pool, objects, pointer, folders)
    async with asyncio.TaskGroup() as group:
        group.create_task(follow_database(settings, lifecycle.set_ready))
        group.create_task(runner.run())
        group.create_task(folders.run())
        group.create_task(pointer.run())
        group.create_task(replicas.run())
        group.create_task(Janitor(pool, objects).run())


async def _sign(settings: TrainerSettings, pool: Pool, objects: ObjectStore) -> None:
    files = VersionStore(objects, settings.work_dir / "versions")
    await sign_versions(VersionRegistry(pool, files.require_files), files)


def _trainer(
    settings: TrainerSettings,
    pool: Pool,
    objects: ObjectStore,
    pointer: ServingPointerPublisher,
    replicas: ReplicaWatch,
) -> Trainer:
    files = VersionStore(objects, settings.work_dir / "versions")
    return Trainer(
        JobQueue(pool, settings.queued_jobs),
        VersionRegistry(pool, files.require_files),
        EvaluationStore(pool, objects),
        SuspectLabels(pool, objects),
        operating_points=OperatingPoints(pool),
        uploads=UploadStore(objects, settings.work_dir, settings.upload_max_bytes),
        pointer=pointer,
        replicas=replicas,
        shadow=ShadowPublisher(pool, objects),
    )


def _runner(
    settings: TrainerSettings,
    pool: Pool,
    objects: ObjectStore,
    pointer: ServingPointerPublisher,
    folders: JobFolders,
) -> JobRunner:
    store = VersionStore(objects, settings.work_dir / "versions")
    completion = JobCompletion(pool, objects, store, pointer)
    command = worker_command(settings.train_processes)
    limit = partial(memory_limit, settings)
    leases = JobLeases(pool, outage_limit_s=settings.outage_limit_s)
    return JobRunner(leases, completion, folders, command, limit)


async def _prepare_stores(settings: TrainerSettings, pool: Pool, objects: ObjectStore) -> None:
    """Wait for the stores, migrate the database, and import the bundled network if need be.

    Raises:
        PreconditionFailed: If the database cannot be migrated.
    """

    async def attempt() -> None:
        url = settings.database_url.get_secret_value()
        await asyncio.to_thread(apply_migrations, url, SCHEMA, MIGRATIONS)
        await asyncio.to_thread(objects.ensure_bucket)
        await import_default_if_empty(pool)

    await retry_until_available("preparation of the stores", attempt)
