"""Tests of the leadership of the pool."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psycopg
import pytest

from services.feedback.pool.leadership import PoolLeadership
from services.feedback.settings import FeedbackSettings
from shared.errors import Unavailable


@asynccontextmanager
async def contender(settings: FeedbackSettings) -> AsyncIterator[PoolLeadership]:
    leadership = PoolLeadership(settings)
    try:
        yield leadership
    finally:
        await leadership.release()


async def test_one_process_leads_until_it_releases_the_lock(settings: FeedbackSettings) -> None:
    async with contender(settings) as first, contender(settings) as second:
        leader = await first.acquire()
        assert leader is not None
        assert await second.acquire() is None
        assert await first.acquire() is leader
        await first.release()
        assert await second.acquire() is not None
        assert await first.acquire() is None


async def test_a_leader_whose_connection_is_lost_stops_leading(
    settings: FeedbackSettings, database_url: str
) -> None:
    async with contender(settings) as first, contender(settings) as second:
        assert await first.acquire() is not None
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_database"
                " ON pg_database.oid = pg_locks.database"
                " WHERE locktype = 'advisory' AND granted AND datname = current_database()"
            )
        with pytest.raises(Unavailable):
            await first.acquire()
        assert await second.acquire() is not None
        assert await first.acquire() is None


async def test_without_a_database_nobody_leads(settings: FeedbackSettings) -> None:
    nowhere = settings.model_copy(
        update={"database_url": type(settings.database_url)("postgresql://127.0.0.1:9/none")}
    )
    async with contender(nowhere) as leadership:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await leadership.acquire()
