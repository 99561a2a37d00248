"""Queries about other sessions of a Postgres server."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg


def blocked_sessions(database_url: str) -> int:
    """Number of sessions of this database that wait for a lock."""
    return _count_sessions(database_url, "wait_event_type = 'Lock'")


def sleeping_sessions(database_url: str) -> int:
    """Number of sessions of this database that are in ``pg_sleep``."""
    return _count_sessions(database_url, "wait_event = 'PgSleep'")


def _count_sessions(database_url: str, condition: LiteralString) -> int:
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND "
    with psycopg.connect(database_url) as connection:
        row = connection.execute(query + condition).fetchone()
    return row[0] if row else 0


@contextmanager
def read_only(database_url: str) -> Iterator[None]:
    """Make the database refuse writes inside the block, as a standby does."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        _set_read_only(connection, "on")
        try:
            yield
        finally:
            _set_read_only(connection, "off")


def _set_read_only(connection: psycopg.Connection, value: str) -> None:
    name = connection.info.dbname
    connection.execute(
        f"ALTER DATABASE {name} SET default_transaction_read_only = {value}".encode()
    )
    connection.execute(
        # Until they have ended, so that nobody uses one that is about to.
        "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
