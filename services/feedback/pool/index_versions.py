"""Model versions that the pool is embedded with: their rows, partitions and indexes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from services.feedback.pool import queries
from services.feedback.pool.calibration import Calibration
from services.feedback.pool.embedder_client import ServingModel
from shared.errors import Unavailable
from shared.model.manifest import ProbabilityCurve
from shared.settings import DatabaseSettings
from shared.storage.postgres import Pool, transaction

_LEAD: Final = "SELECT pg_try_advisory_lock(hashtextextended(%(work)s, 0))"
# New partitions and dropped ones lock the images for a moment: do not make writers queue.
_LOCK_WAIT: Final = "SET lock_timeout = '3s'"
_BUILD_MEMORY: Final = "SET maintenance_work_mem = '256MB'"


@dataclass(frozen=True, slots=True)
class IndexVersion:
    """A version of the pool's embeddings; complete once all are there, and indexed."""

    version_id: int
    model_version: str
    dimensions: int
    calibration: Calibration
    complete: bool


async def complete_versions(pool: Pool) -> list[IndexVersion]:
    """Give the versions that can be searched, the newest first; two only during a swap."""
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.COMPLETE_VERSIONS)
        return [_version(row) async for row in cursor]


async def find_or_add(
    pool: Pool, lead: "LeaderConnection", model: ServingModel, curve: ProbabilityCurve | None
) -> IndexVersion:
    """Give a model's version, with a partition to put its embeddings in."""
    named = {"model_version": model.model_version}
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.VERSION, named)
        row = await cursor.fetchone()
        if row is None:
            added = {"dimensions": model.dimensions, "threshold": model.threshold}
            shape = {"slope": curve and curve.slope, "intercept": curve and curve.intercept}
            await connection.execute(queries.ADD_VERSION, named | added | shape)
            cursor = await connection.execute(queries.VERSION, named)
            row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - it was added if it was not there
    version = _version(row)
    if not version.complete:
        await lead.execute(queries.add_partition(version.version_id))
    return version


async def complete(pool: Pool, lead: "LeaderConnection", version: IndexVersion) -> None:
    """Index a version whose embeddings are all there; begun anew after a crash."""
    await lead.execute(queries.drop_index(version.version_id))
    await lead.execute(queries.add_index(version.version_id, version.dimensions))
    async with transaction(pool) as connection:
        await connection.execute(queries.COMPLETE, {"version_id": version.version_id})


async def drop_others(pool: Pool, lead: "LeaderConnection", version: IndexVersion) -> None:
    """Forget every other version and its embeddings."""
    async with transaction(pool) as connection:
        cursor = await connection.execute(
            queries.OTHER_VERSIONS, {"version_id": version.version_id}
        )
        others = [version_id async for (version_id,) in cursor]
    for version_id in others:
        await lead.execute(queries.drop_partition(version_id))
        async with transaction(pool) as connection:
            await connection.execute(queries.FORGET_VERSION, {"version_id": version_id})


class LeaderConnection:
    """A connection that holds the right to tend the pool, and makes and drops its tables."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._connection = connection

    async def execute(self, statement: Any) -> None:
        """Run a statement that may take long.

        Raises:
            Unavailable: If the database cannot answer, or a lock was not to be had.
        """
        try:
            await self._connection.execute(statement)
        except psycopg.OperationalError as error:
            raise Unavailable(f"cannot tend the pool: {error}") from error

    async def confirm(self) -> None:
        """Make sure that the connection, and the right with it, is still there."""
        await self.execute("SELECT 1")


@asynccontextmanager
async def leading(
    settings: DatabaseSettings, work: str = "feedback pool"
) -> AsyncIterator[LeaderConnection | None]:
    """Hold the right to do some work inside the block; None where another process has it.

    Args:
        settings: Where the database is.
        work: Its name; to tend the pool unless another is given.

    Raises:
        Unavailable: If the database cannot be reached.
    """
    try:
        connection = await psycopg.AsyncConnection.connect(
            settings.database_url.get_secret_value(),
            autocommit=True,
            connect_timeout=10,
            keepalives_idle=10,
            keepalives_interval=5,
            keepalives_count=3,
        )
    except psycopg.OperationalError as error:
        raise Unavailable(f"cannot reach the database: {error}") from error
    async with connection:
        try:
            cursor = await connection.execute(_LEAD, {"work": work})
            first = await cursor.fetchone() == (True,)
            if first:
                await connection.execute(_LOCK_WAIT)
                await connection.execute(_BUILD_MEMORY)
        except psycopg.OperationalError as error:
            raise Unavailable(f"cannot reach the database: {error}") from error
        yield LeaderConnection(connection) if first else None


def _version(row: TupleRow) -> IndexVersion:
    version_id, model_version, dimensions, threshold, slope, intercept, done = row
    curve = None if slope is None else ProbabilityCurve(slope=slope, intercept=intercept)
    return IndexVersion(version_id, model_version, dimensions, Calibration(threshold, curve), done)
