"""Leadership of the pool: an advisory lock that one process at a time holds."""

from typing import Any, Final

import psycopg
from psycopg.rows import TupleRow

from services.feedback.pool import queries
from shared.errors import Unavailable
from shared.settings import DatabaseSettings
from shared.storage.database_errors import database_errors

# Creating and dropping a partition locks table images for a moment; writers must not queue up
# behind a lock that is not granted soon.
_LOCK_TIMEOUT: Final = "SET lock_timeout = '3s'"
_BUILD_MEMORY: Final = "SET maintenance_work_mem = '256MB'"


class LeaderConnection:
    """The connection that holds the lock; runs the DDL statements of the pool."""

    def __init__(self, connection: psycopg.AsyncConnection[TupleRow]) -> None:
        self._connection = connection

    async def execute(self, statement: Any) -> None:
        """Run a statement, without a statement timeout.

        Raises:
            Unavailable: If the database does not answer, or a lock is not granted in time.
        """
        with database_errors():
            await self._connection.execute(statement)

    async def close(self) -> None:
        await self._connection.close()


class PoolLeadership:
    """Acquires the lock and holds it until the connection is lost or closed.

    Args:
        settings: Where the database is.
    """

    def __init__(self, settings: DatabaseSettings) -> None:
        self._settings = settings
        self._leader: LeaderConnection | None = None

    async def acquire(self) -> LeaderConnection | None:
        """Give the connection that holds the lock; None if another process holds it.

        Raises:
            Unavailable: If the database does not answer, or the connection was lost. The next
                call connects again.
        """
        if self._leader is None:
            self._leader = await self._try_to_lead()
        else:
            try:
                await self._leader.execute("SELECT 1")
            except Unavailable:
                await self.release()
                raise
        return self._leader

    async def release(self) -> None:
        """Release the lock, if it is held."""
        if self._leader is not None:
            await self._leader.close()
            self._leader = None

    async def _try_to_lead(self) -> LeaderConnection | None:
        with database_errors("the database cannot be reached"):
            connection = await psycopg.AsyncConnection.connect(
                self._settings.database_url.get_secret_value(),
                autocommit=True,
                connect_timeout=10,
                keepalives_idle=10,
                keepalives_interval=5,
                keepalives_count=3,
            )
            try:
                if await _lock(connection):
                    return LeaderConnection(connection)
            except BaseException:
                await connection.close()
                raise
            await connection.close()
        return None


async def _lock(connection: psycopg.AsyncConnection[TupleRow]) -> bool:
    cursor = await connection.execute(queries.TRY_LEADER_LOCK)
    if await cursor.fetchone() != (True,):
        return False
    await connection.execute(_LOCK_TIMEOUT)
    await connection.execute(_BUILD_MEMORY)
    return True
