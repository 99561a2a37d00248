"""Helpers of tests with stores that are stopped, slow or full."""

import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from deploy.local.postgres import PostgresServer
from deploy.local.s3_nanio import NanioServer
from services.feedback.labels.service import LabelService
from services.feedback.server import open_label_service, prepare_stores
from services.feedback.settings import FeedbackSettings
from shared.errors import Unavailable
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.services.feedback.support.helpers import settings_for, vaults
from tests.support.details import assert_nothing_internal


def labels_in(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM feedback.labels").fetchone()
    assert row is not None
    return int(row[0])


def images_in(database_url: str) -> set[str]:
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT encode(sha256, 'hex') FROM feedback.images").fetchall()
    return {row[0] for row in rows}


def objects_in(settings: ObjectStoreSettings) -> set[str]:
    return {found.key.rpartition("/")[2] for found in ObjectStore(settings).list("images/")}


def emptied(database: PostgresServer, s3: NanioServer, timeout_s: float) -> FeedbackSettings:
    """Empty both stores, as before the first start of the service.

    Args:
        database: A Postgres.
        s3: An object store.
        timeout_s: Timeout of both, in seconds.

    Returns:
        Settings of a service on these stores.
    """
    with psycopg.connect(database.url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS feedback CASCADE")
    objects = ObjectStore(s3.settings())
    objects.ensure_bucket()
    for found in list(objects.list("images/")):
        objects.remove(found.key)
    return settings_for(
        database.url, s3.settings(), database_timeout_s=timeout_s, s3_timeout_s=timeout_s
    )


@asynccontextmanager
async def prepared_store(settings: FeedbackSettings) -> AsyncIterator[LabelService]:
    objects = ObjectStore(settings)
    await prepare_stores(settings, objects)
    async with open_label_service(settings, vaults(settings, objects)) as (store, _):
        yield store


async def unavailable(call: Awaitable[Any], timeout_s: float) -> None:
    """Require that a call fails with Unavailable in bounded time.

    The bound is a timeout for the connection, one for the answer and one for the pool, plus slack
    for a busy machine.
    """
    started = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await call
    assert_nothing_internal(str(caught.value))
    assert time.monotonic() - started < 3 * timeout_s + 3
