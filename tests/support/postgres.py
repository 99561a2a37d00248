"""Queries about other sessions of a Postgres server."""

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
