"""Puts the parts of the trainer together, whether or not its stores are there yet."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
from magface.v1 import trainer_pb2_grpc

from services.trainer.api.service import Trainer
from services.trainer.api.servicer import TrainerServicer
from services.trainer.jobs.bootstrap import import_default_if_empty
from services.trainer.jobs.completion import Completion
from services.trainer.jobs.janitor import Housekeeper
from services.trainer.jobs.leases import Leases
from services.trainer.jobs.queue import Jobs
from services.trainer.jobs.runner import Runner, worker_command
from services.trainer.jobs.uploads import Uploads
from services.trainer.registry.evaluations import Evaluations
from services.trainer.registry.replicas import ReplicaWatch
from services.trainer.registry.serving_pointer import PointerPublisher
from services.trainer.registry.shadow import ShadowPublisher
from services.trainer.registry.suspects import Suspects
from services.trainer.registry.versions import Versions
from services.trainer.settings import TrainerSettings
from shared.registry.version_store import VersionStore
from shared.rpc.server.lifecycle import Lifecycle
from shared.storage.migrations import apply_migrations
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, open_pool
from shared.storage.retry import retry_until_available

SERVICE_NAME: Final = "magface.v1.TrainerService"
SCHEMA: Final = "trainer"
MIGRATIONS: Final = Path(__file__).with_name("migrations")


@asynccontextmanager
async def trainer_service(
    settings: TrainerSettings, server: grpc.aio.Server, lifecycle: Lifecycle
) -> AsyncIterator[None]:
    """Add the service to a server; it is ready once its stores can be reached.

    Raises:
        ExceptionGroup: If the database cannot be migrated, or the runner or the reconciler
            fails unexpectedly; the server stops then.
    """
    settings.work_dir.mkdir(parents=True, exist_ok=True)
    servicer = TrainerServicer(lifecycle.stopping)
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(servicer, server)
    objects = ObjectStore(settings)
    pool = await open_pool(settings)
    try:
        async with asyncio.TaskGroup() as group:
            life = group.create_task(_live(settings, pool, objects, servicer, lifecycle))
            yield
            life.cancel()
    finally:
        await pool.close()


async def _live(
    settings: TrainerSettings,
    pool: Pool,
    objects: ObjectStore,
    servicer: TrainerServicer,
    lifecycle: Lifecycle,
) -> None:
    await _prepare(settings, pool, objects)
    pointer = PointerPublisher(pool, objects)
    uploads = Uploads(objects, settings.work_dir, settings.upload_max_bytes)
    evaluations = Evaluations(pool, objects)
    suspects = Suspects(pool, objects)
    replicas = ReplicaWatch(objects)
    servicer.trainer.set(
        Trainer(
            Jobs(pool),
            Versions(pool),
            evaluations,
            suspects,
            uploads=uploads,
            pointer=pointer,
            replicas=replicas,
            shadow=ShadowPublisher(pool, objects),
        )
    )
    await lifecycle.set_ready(True)
    store = VersionStore(objects, settings.work_dir / "versions")
    completion = Completion(pool, objects, store, pointer)
    command = worker_command(settings.train_processes)
    runner = Runner(Leases(pool), completion, settings.work_dir, command)
    async with asyncio.TaskGroup() as group:
        group.create_task(runner.run())
        group.create_task(pointer.reconcile())
        group.create_task(replicas.run())
        group.create_task(Housekeeper(pool, objects).run())


async def _prepare(settings: TrainerSettings, pool: Pool, objects: ObjectStore) -> None:
    """Wait for database and object store, and bring both to where the service needs them.

    Raises:
        PreconditionFailed: If the database cannot be migrated.
    """

    async def attempt() -> None:
        url = settings.database_url.get_secret_value()
        await asyncio.to_thread(apply_migrations, url, SCHEMA, MIGRATIONS)
        await asyncio.to_thread(objects.ensure_bucket)
        await import_default_if_empty(pool)

    await retry_until_available(attempt)
