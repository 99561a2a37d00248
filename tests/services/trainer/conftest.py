"""A trainer's database and what stands on it."""

from collections.abc import AsyncIterator

import pytest

from services.trainer.jobs.completion import Completion
from services.trainer.jobs.leases import Leases
from services.trainer.jobs.queue import Jobs
from services.trainer.registry.serving_pointer import PointerPublisher
from services.trainer.registry.versions import Versions
from services.trainer.server import MIGRATIONS, SCHEMA
from shared.registry.version_store import VersionStore
from shared.settings import DatabaseSettings
from shared.storage.migrations import apply_migrations
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, open_pool


@pytest.fixture
async def pool(database_url: str) -> AsyncIterator[Pool]:
    apply_migrations(database_url, SCHEMA, MIGRATIONS)
    pool = await open_pool(DatabaseSettings(database_url=database_url))
    yield pool
    await pool.close()


@pytest.fixture
def jobs(pool: Pool) -> Jobs:
    return Jobs(pool)


@pytest.fixture
def leases(pool: Pool) -> Leases:
    return Leases(pool)


@pytest.fixture
def versions(pool: Pool) -> Versions:
    return Versions(pool)


@pytest.fixture
def pointer(pool: Pool, object_store: ObjectStore) -> PointerPublisher:
    return PointerPublisher(pool, object_store)


@pytest.fixture
def completion(
    pool: Pool, object_store: ObjectStore, pointer: PointerPublisher, tmp_path
) -> Completion:
    return Completion(
        pool, object_store, VersionStore(object_store, tmp_path / "versions"), pointer
    )
