"""Fixtures: a trainer's database and the parts that use it."""

from collections.abc import AsyncIterator

import pytest

from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.leases import JobLeases
from services.trainer.jobs.queue import JobQueue
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from services.trainer.registry.versions import VersionRegistry
from services.trainer.server import MIGRATIONS, SCHEMA
from shared.registry.version_store import VersionStore
from shared.settings import DatabaseSettings
from shared.storage.migrations import apply_migrations
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, open_pool
from tests.services.trainer.samples import files_are_there


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    apply_migrations(database_url, SCHEMA, MIGRATIONS)
    pool = await open_pool(DatabaseSettings(database_url=database_url))
    yield pool
    await pool.close()


@pytest.fixture
def jobs(pool: Pool) -> JobQueue:
    return JobQueue(pool)


@pytest.fixture
def leases(pool: Pool) -> JobLeases:
    return JobLeases(pool)


@pytest.fixture
def versions(pool: Pool) -> VersionRegistry:
    return VersionRegistry(pool, files_are_there)


@pytest.fixture
def pointer(pool: Pool, object_store: ObjectStore) -> ServingPointerPublisher:
    return ServingPointerPublisher(pool, object_store)


@pytest.fixture
def completion(
    pool: Pool, object_store: ObjectStore, pointer: ServingPointerPublisher, tmp_path
) -> JobCompletion:
    return JobCompletion(
        pool, object_store, VersionStore(object_store, tmp_path / "versions"), pointer
    )
