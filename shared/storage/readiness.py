"""Readiness of a service that needs its database: NOT_SERVING while Postgres does not answer."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, NoReturn

from shared.errors import Unavailable
from shared.runtime import FailureLog
from shared.settings import DatabaseSettings
from shared.storage.database_errors import database_errors
from shared.storage.postgres import BoundedConnection

_EVERY_S: Final = 2.0
_ANSWER_S: Final = 3.0


async def follow_database(
    settings: DatabaseSettings, set_ready: Callable[[bool], Awaitable[None]]
) -> NoReturn:
    """Ask the database every two seconds, until cancelled; tell when its answers end and begin.

    The connection is one of its own: that all others are in use is no reason to be away.

    Args:
        settings: Of the database, which has answered before.
        set_ready: Called with whether the database answers, at each change.
    """
    failures = FailureLog("question to the database")
    connection: BoundedConnection | None = None
    ready = True
    try:
        while True:
            try:
                connection = await _ask_twice(settings, connection)
            except Unavailable as error:
                failures.failed(error)
                connection, answers = None, False
            else:
                failures.succeeded()
                answers = True
            if answers != ready:
                ready = answers
                await set_ready(ready)
            await asyncio.sleep(_EVERY_S)
    finally:
        if connection is not None:
            await connection.close()


async def _ask_twice(
    settings: DatabaseSettings, connection: BoundedConnection | None
) -> BoundedConnection:
    """Ask again on a new connection if one that was open fails: it may be lost for itself alone."""
    if connection is not None:
        with suppress(Unavailable):
            return await _ask(settings, connection)
    return await _ask(settings, None)


async def _ask(
    settings: DatabaseSettings, connection: BoundedConnection | None
) -> BoundedConnection:
    """Ask on a connection, or on a new one; a failed one is closed."""
    with database_errors():
        if connection is None:
            connection = await BoundedConnection.connect(
                settings.database_url.get_secret_value(),
                autocommit=True,
                connect_timeout=int(_ANSWER_S),
            )
            connection.wait_limit_s = _ANSWER_S
        try:
            await connection.execute("SELECT 1")
        except BaseException:
            await connection.close()
            raise
    return connection
