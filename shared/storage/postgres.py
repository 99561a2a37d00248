"""Postgres connection pool, with time limits and the domain's errors."""

import asyncio
import math
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import Any

import psycopg
from psycopg import AsyncConnection, errors
from psycopg.abc import RV, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool

from shared.errors import PreconditionFailed
from shared.settings import DatabaseSettings
from shared.storage.database_errors import database_errors

_IDLE_IN_TRANSACTION_S = 30


class BoundedConnection(AsyncConnection[TupleRow]):
    """Connection that fails when the server does not answer within a time limit.

    ``statement_timeout`` alone is not enough: the server enforces it, so a frozen server does not.
    """

    wait_limit_s = 30.0

    async def wait(self, gen: PQGen[RV], interval: float = 0.1, timeout: float | None = None) -> RV:  # noqa: ASYNC109
        if timeout is not None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.wait_limit_s)
        except errors._WaitTimeout:
            self.pgconn.finish()
            raise psycopg.OperationalError(
                f"no answer from Postgres within {self.wait_limit_s:g} s"
            ) from None


class Pool(AsyncConnectionPool[BoundedConnection]):
    """Connection pool of which work that waits for its turn gets half.

    Args:
        url: Of the database.
        max_size: Most connections.
        options: See `AsyncConnectionPool`.

    Attributes:
        turns: Held by those who use a connection in turn.
    """

    def __init__(self, url: str, *, max_size: int, **options: Any) -> None:
        super().__init__(url, max_size=max_size, connection_class=BoundedConnection, **options)
        self.turns = asyncio.Semaphore(max(1, max_size // 2))


async def open_pool(settings: DatabaseSettings) -> Pool:
    """Open a pool of connections, without waiting for the server.

    Statements that take longer than ``database_timeout_s`` are cancelled.

    Raises:
        PreconditionFailed: If the URL cannot be read.
    """
    url = settings.database_url.get_secret_value()
    timeout_s = settings.database_timeout_s

    async def configure(connection: BoundedConnection) -> None:
        # The limit of the server comes first because it leaves the connection usable.
        connection.wait_limit_s = timeout_s * 1.2

    pool = Pool(
        url,
        kwargs=_connection_options(url, timeout_s),
        min_size=1,
        max_size=settings.database_pool_size,
        timeout=timeout_s,
        # Also limits the exponential back-off of the pool, so that it reconnects soon.
        reconnect_timeout=timeout_s,
        configure=configure,
        check=_check,
        open=False,
    )
    await pool.open(wait=False)
    return pool


@asynccontextmanager
async def transaction(pool: Pool, *, in_turn: bool = False) -> AsyncIterator[BoundedConnection]:
    """Run the block in one transaction: commit at its end, roll back on an exception.

    Args:
        pool: Gives the connection.
        in_turn: Whether to wait for a turn as long as it takes, as the work of streams does, which
            is bounded. The block must not wait for another turn.

    Raises:
        Unavailable: If Postgres is down, frozen, full, read-only, shutting down or too slow, or
            all connections are in use. If the connection is lost during the commit, the transaction
            may have been applied, so the block must be safe to repeat.
        Conflict: If a concurrent transaction was committed first.
    """
    async with pool.turns if in_turn else nullcontext():
        with database_errors():
            async with pool.connection() as connection:
                yield connection


def _connection_options(url: str, timeout_s: float) -> dict[str, Any]:
    try:
        given = conninfo_to_dict(url).get("options") or ""
    except psycopg.ProgrammingError:
        # The message may hold a part of the password.
        raise PreconditionFailed(
            "MAGFACE_DATABASE_URL cannot be read; expected postgresql://user:password@host:port/name"
        ) from None
    limits = (
        f"-c statement_timeout={int(timeout_s * 1000)} "
        f"-c idle_in_transaction_session_timeout={_IDLE_IN_TRANSACTION_S * 1000}"
    )
    return {
        "options": f"{limits} {given}".strip(),
        "connect_timeout": math.ceil(timeout_s),
        # A connection that the network has dropped is detected after 25 s.
        "keepalives_idle": 10,
        "keepalives_interval": 5,
        "keepalives_count": 3,
    }


async def _check(connection: BoundedConnection) -> None:
    """Raise for a connection that the server has closed; a healthy one costs no round trip.

    An idle connection has data to read only when the server has closed it.
    """
    poll = select.poll()
    poll.register(connection.pgconn.socket, select.POLLIN)
    if poll.poll(0):
        await AsyncConnectionPool.check_connection(connection)


async def fetch(pool: Pool, query: Any, values: dict[str, Any]) -> list[TupleRow]:
    """Return all rows of a query.

    Raises:
        Unavailable: If the database cannot answer.
    """
    async with transaction(pool) as connection:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall()
