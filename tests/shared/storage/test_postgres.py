import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from pydantic import SecretStr

from deploy.local.postgres import PostgresServer
from shared.errors import Conflict, NotFound, Unavailable
from shared.settings import DatabaseSettings
from shared.storage.migrations import apply_migrations
from shared.storage.postgres import Pool, open_pool, transaction
from tests.support.details import raises_with_details
from tests.support.postgres import sleeping_sessions
from tests.support.waiting import until


@asynccontextmanager
async def _pool(url: str, *, timeout_s: float = 2.0, size: int = 4) -> AsyncIterator[Pool]:
    settings = DatabaseSettings(
        database_url=SecretStr(url), database_timeout_s=timeout_s, database_pool_size=size
    )
    pool = await open_pool(settings)
    try:
        yield pool
    finally:
        await pool.close()


async def _count(pool: Pool) -> int:
    async with transaction(pool) as connection:
        cursor = await connection.execute("SELECT count(*) FROM things")
        row = await cursor.fetchone()
        assert row is not None
        return int(row[0])


async def _insert(pool: Pool) -> None:
    async with transaction(pool) as connection:
        await connection.execute("INSERT INTO things DEFAULT VALUES")


@pytest.fixture
def things_url(database_url: str) -> str:
    _make_things(database_url)
    return database_url


def _make_things(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE things (id bigserial PRIMARY KEY, value int DEFAULT 0)")


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """A server that these tests may kill."""
    with PostgresServer(tmp_path_factory.mktemp("own-postgres")) as server:
        _make_things(server.create_database("things"))
        yield server


async def test_block_is_committed_at_its_end(things_url: str) -> None:
    async with _pool(things_url) as pool:
        await _insert(pool)
        assert await _count(pool) == 1


async def test_error_rolls_the_block_back_and_is_passed_on(things_url: str) -> None:
    async with _pool(things_url) as pool:
        with pytest.raises(NotFound):
            async with transaction(pool) as connection:
                await connection.execute("INSERT INTO things DEFAULT VALUES")
                raise NotFound("something of the domain")
        assert await _count(pool) == 0


async def test_mistake_in_sql_is_no_outage(things_url: str) -> None:
    async with _pool(things_url) as pool:
        with pytest.raises(psycopg.errors.UndefinedTable):
            async with transaction(pool) as connection:
                await connection.execute("SELECT * FROM nowhere")


async def _raise(pool: Pool, code: str) -> None:
    async with transaction(pool) as connection:
        text = f"DO $$ BEGIN RAISE EXCEPTION 'as a server would' USING ERRCODE = '{code}'; END $$"
        await connection.execute(text.encode())


_FAULTS = (
    "08006 25006 25P03 42501 53000 53100 53200 53300 55P03"
    " 57014 57P01 57P02 57P03 58000 58030 XX000 XX001 XX002"
)


@pytest.mark.parametrize("code", _FAULTS.split())
async def test_fault_of_the_server_is_unavailable(things_url: str, code: str) -> None:
    async with _pool(things_url) as pool:
        with raises_with_details(Unavailable, match="as a server would"):
            await _raise(pool, code)
        assert await _count(pool) == 0


@pytest.mark.parametrize("code", ["22012", "23505", "42601", "42P01", "P0001"])
async def test_fault_of_the_program_stays_what_it_is(things_url: str, code: str) -> None:
    async with _pool(things_url) as pool:
        with pytest.raises(psycopg.Error) as raised:
            await _raise(pool, code)
        assert raised.value.sqlstate == code


def _set_read_only(url: str, value: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SET default_transaction_read_only = off")
        name = connection.info.dbname
        connection.execute(
            f"ALTER DATABASE {name} SET default_transaction_read_only = {value}".encode()
        )


async def test_read_only_server_is_unavailable_until_it_can_be_written(
    things_url: str, tmp_path: Path
) -> None:
    (tmp_path / "0001_more.sql").write_text("CREATE TABLE more (id int)")
    _set_read_only(things_url, "on")
    async with _pool(things_url) as pool:
        assert await _count(pool) == 0
        with raises_with_details(Unavailable, match="read-only"):
            await _insert(pool)
        with raises_with_details(Unavailable, match="read-only"):
            apply_migrations(things_url, "more", tmp_path)
    _set_read_only(things_url, "off")
    async with _pool(things_url) as pool:
        await _insert(pool)
    assert apply_migrations(things_url, "more", tmp_path) == ["0001_more.sql"]


async def test_user_without_rights_is_unavailable_until_it_has_them(things_url: str) -> None:
    with psycopg.connect(things_url, autocommit=True) as connection:
        connection.execute("REVOKE ALL ON things FROM PUBLIC")
        connection.execute("DROP ROLE IF EXISTS stranger")
        connection.execute("CREATE ROLE stranger")
        async with _pool(f"{things_url}?options=-c%20role%3Dstranger") as pool:
            with raises_with_details(Unavailable, match=r"grant.*permission denied"):
                await _count(pool)
            connection.execute("GRANT SELECT ON things TO stranger")
            assert await _count(pool) == 0
        connection.execute("DROP OWNED BY stranger")
        connection.execute("DROP ROLE stranger")


async def test_slow_statement_is_unavailable_in_time(things_url: str) -> None:
    async with _pool(things_url, timeout_s=0.5) as pool:
        started = time.monotonic()
        with raises_with_details(Unavailable, match="statement timeout"):
            async with transaction(pool) as connection:
                await connection.execute("SELECT pg_sleep(10)")
        assert time.monotonic() - started < 4
        assert await _count(pool) == 0


async def test_block_that_stays_idle_lets_go_of_its_locks(things_url: str) -> None:
    async with _pool(things_url) as pool:
        with raises_with_details(Unavailable, match="idle-in-transaction"):
            async with transaction(pool) as connection:
                await connection.execute("INSERT INTO things DEFAULT VALUES")
                await connection.execute("SET idle_in_transaction_session_timeout = '100ms'")
                await asyncio.sleep(0.5)
                await connection.execute("INSERT INTO things DEFAULT VALUES")
        assert await _count(pool) == 0


async def test_options_in_the_url_stay(things_url: str) -> None:
    async with (
        _pool(f"{things_url}?options=-c%20work_mem%3D5MB") as pool,
        transaction(pool) as connection,
    ):
        shown = [
            await (await connection.execute(f"SHOW {name}")).fetchone()
            for name in ("work_mem", "statement_timeout", "idle_in_transaction_session_timeout")
        ]
        assert shown == [("5MB",), ("2s",), ("30s",)]


async def test_all_connections_taken_is_unavailable_in_time(things_url: str) -> None:
    async with _pool(things_url, timeout_s=0.5, size=1) as pool, transaction(pool):
        started = time.monotonic()
        with raises_with_details(Unavailable, match="couldn't get a connection"):
            await _count(pool)
        assert time.monotonic() - started < 4


async def test_lost_race_is_a_conflict(things_url: str) -> None:
    async with _pool(things_url) as pool:
        await _insert(pool)
        with pytest.raises(Conflict):
            async with transaction(pool) as late:
                await late.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                await late.execute("SELECT * FROM things")
                async with transaction(pool) as early:
                    await early.execute("UPDATE things SET value = 1")
                await late.execute("UPDATE things SET value = 2")


async def test_cancelled_caller_gives_the_connection_back(things_url: str) -> None:
    async with _pool(things_url, timeout_s=60, size=1) as pool:

        async def sleep() -> None:
            async with transaction(pool) as connection:
                await connection.execute("SELECT pg_sleep(50)")

        task = asyncio.create_task(sleep())
        await until(lambda: sleeping_sessions(things_url) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        started = time.monotonic()
        assert await _count(pool) == 0
        assert time.monotonic() - started < 30


async def test_pool_opens_before_the_server_is_there(own_postgres: PostgresServer) -> None:
    url = own_postgres.create_database("things")
    own_postgres.stop()
    async with _pool(url, timeout_s=1.0) as pool:
        with pytest.raises(Unavailable):
            await _count(pool)
        own_postgres.start()
        await _count(pool)


async def test_no_call_fails_after_a_restart(own_postgres: PostgresServer) -> None:
    async with _pool(own_postgres.create_database("things")) as pool:
        await asyncio.gather(*(_count(pool) for _ in range(8)))
        own_postgres.stop()
        own_postgres.start()
        await asyncio.gather(*(_count(pool) for _ in range(8)))


async def test_killed_server_is_unavailable_in_time_and_used_again(
    own_postgres: PostgresServer,
) -> None:
    async with _pool(own_postgres.create_database("things")) as pool:
        before = await _count(pool)
        own_postgres.kill()
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(Unavailable):
                await _insert(pool)
            assert time.monotonic() - started < 4
        own_postgres.start()
        await _insert(pool)
        assert await _count(pool) == before + 1


async def test_connection_lost_inside_the_block_is_unavailable(
    own_postgres: PostgresServer,
) -> None:
    url = own_postgres.create_database("things")
    async with _pool(url) as pool:
        before = await _count(pool)
        with pytest.raises(Unavailable):
            async with transaction(pool) as connection:
                await connection.execute("INSERT INTO things DEFAULT VALUES")
                with psycopg.connect(own_postgres.url, autocommit=True) as other:
                    other.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
                await connection.execute("INSERT INTO things DEFAULT VALUES")
        assert await _count(pool) == before


async def test_frozen_server_is_unavailable_in_time_and_used_again(
    own_postgres: PostgresServer,
) -> None:
    async with _pool(own_postgres.create_database("things"), timeout_s=1.0) as pool:
        await asyncio.gather(*(_insert(pool) for _ in range(4)))
        before = await _count(pool)
        with _frozen(own_postgres):
            # More calls than connections, so some of them wait for a connection first.
            started = time.monotonic()
            calls = (_insert(pool) for _ in range(8))
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(result, Unavailable) for result in results)
            assert time.monotonic() - started < 8
        await _insert(pool)
        # The frozen server may have executed a statement after the timeout.
        assert before + 1 <= await _count(pool) <= before + 9


@contextmanager
def _frozen(server: PostgresServer) -> Iterator[None]:
    postmaster = psutil.Process(server.pid)
    family = [postmaster, *postmaster.children(recursive=True)]
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    try:
        yield
    finally:
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.resume()
