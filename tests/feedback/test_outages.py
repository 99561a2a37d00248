"""With a store away: UNAVAILABLE in bounded time, nothing half stored, and it recovers."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import psutil
import psycopg
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from deploy.local.objectstore import NanioServer
from deploy.local.postgres import PostgresServer
from deploy.local.server import LocalServer
from services.feedback.opening import feedback_service, opened_store, prepare
from services.feedback.settings import FeedbackSettings
from services.feedback.store import FeedbackStore
from shared.errors import Unavailable
from shared.rpc.channel import open_channel
from shared.rpc.server import running_server
from shared.storage.objects import ObjectStore
from tests.feedback.helpers import feedback, request, settings_for, sha256

_TIMEOUT_S = 1.0
# A wait for a connection, one for an answer and one for the pool's turn, and slack for
# a machine that others use too.
_BOUND_S = 3 * _TIMEOUT_S + 3


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("outage-postgres")) as server:
        yield server


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NanioServer]:
    with NanioServer(tmp_path_factory.mktemp("outage-s3")) as server:
        yield server


@pytest.fixture
def settings(database: PostgresServer, s3: NanioServer) -> FeedbackSettings:
    with psycopg.connect(database.url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS feedback CASCADE")
    objects = ObjectStore(s3.settings())
    for found in list(objects.list("images/")):
        objects.remove(found.key)
    return settings_for(
        database.url, s3.settings(), database_timeout_s=_TIMEOUT_S, s3_timeout_s=_TIMEOUT_S
    )


@pytest.fixture
async def store(settings: FeedbackSettings) -> AsyncIterator[FeedbackStore]:
    objects = ObjectStore(settings)
    await prepare(settings, objects)
    async with opened_store(settings, objects) as (store, _):
        yield store


def _labels(database: PostgresServer) -> int:
    with psycopg.connect(database.url) as connection:
        row = connection.execute("SELECT count(*) FROM feedback.labels").fetchone()
    assert row is not None
    return int(row[0])


def _images(database: PostgresServer) -> set[str]:
    with psycopg.connect(database.url) as connection:
        rows = connection.execute("SELECT encode(sha256, 'hex') FROM feedback.images").fetchall()
    return {row[0] for row in rows}


def _objects(s3: NanioServer) -> set[str]:
    return {found.key.rpartition("/")[2] for found in ObjectStore(s3.settings()).list("images/")}


@contextmanager
def _stopped(server: LocalServer) -> Iterator[None]:
    # Not killed: Postgres's orphaned backends would go on answering for a moment.
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def _frozen(server: LocalServer) -> Iterator[None]:
    parent = psutil.Process(server.pid)
    processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


async def _unavailable(call: Coroutine[Any, Any, Any]) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable):
        await call
    assert time.monotonic() - started < _BOUND_S


async def _until_stored(again: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            await again()
        except Unavailable:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.1)
        else:
            return


@pytest.mark.parametrize("outage", [_stopped, _frozen])
async def test_with_postgres_away_nothing_is_stored_and_it_recovers(
    store: FeedbackStore,
    database: PostgresServer,
    s3: NanioServer,
    outage: Callable[[LocalServer], Any],
) -> None:
    await store.submit(feedback(1, 2))
    lost = feedback(3, 4)
    with outage(database):
        await asyncio.gather(
            _unavailable(store.submit(lost)),
            _unavailable(store.submit(feedback(image_a=sha256(1), image_b=sha256(2)))),
            _unavailable(store.stats()),
            _unavailable(store.list_pairs(None, 0, "")),
            _unavailable(store.get_image(sha256(1))),
            _unavailable(anext(store.export(""))),
        )
        assert _objects(s3) == {sha256(1), sha256(2)}
    await _until_stored(lambda: store.submit(lost))
    await store.submit(lost)
    assert (await store.stats()).labels == _labels(database)
    assert _images(database) == _objects(s3) == {sha256(n) for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("outage", [_stopped, _frozen])
async def test_with_the_object_store_away_no_row_is_stored_and_it_recovers(
    store: FeedbackStore,
    database: PostgresServer,
    s3: NanioServer,
    outage: Callable[[LocalServer], Any],
) -> None:
    await store.submit(feedback(1, 2))
    lost = feedback(1, 3)
    with outage(s3):
        await asyncio.gather(
            *[_unavailable(store.submit(feedback(1, n))) for n in range(3, 23)],
            _unavailable(store.get_image(sha256(1))),
        )
        assert _images(database) == {sha256(1), sha256(2)}
        assert _labels(database) == 1

        await store.submit(feedback(image_a=sha256(1), image_b=sha256(2), annotator="bob"))
    await _until_stored(lambda: store.submit(lost))
    face, _ = await store.get_image(sha256(3))
    assert face.data
    assert _labels(database) == 3


async def test_a_service_started_before_its_stores_serves_once_they_are_there(
    settings: FeedbackSettings, database: PostgresServer, s3: NanioServer
) -> None:
    service = partial(feedback_service, settings)
    database.kill()
    s3.kill()
    async with (
        running_server(settings, "magface.v1.FeedbackService", service) as address,
        grpc.aio.insecure_channel(address) as plain,
        open_channel(address) as channel,
    ):
        check = health_pb2.HealthCheckRequest(service="magface.v1.FeedbackService")
        health = await health_pb2_grpc.HealthStub(plain).Check(check)
        assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await feedback_pb2_grpc.FeedbackServiceStub(plain).SubmitFeedback(request(1, 2))
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE

        s3.start()
        database.start()
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        await stub.SubmitFeedback(request(1, 2), wait_for_ready=True, timeout=20)
        assert (await stub.GetStats(pb.GetStatsRequest())).labels == 1
