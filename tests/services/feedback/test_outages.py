"""Tests with a store that is stopped or frozen."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from deploy.local.child_process import ChildProcess
from deploy.local.postgres import PostgresServer
from deploy.local.s3_nanio import NanioServer
from services.feedback.labels.service import LabelService
from services.feedback.server import feedback_service
from services.feedback.settings import FeedbackSettings
from shared.rpc.channel import open_channel
from shared.rpc.server.runner import running_server
from tests.services.feedback.support.helpers import feedback, request, sha256
from tests.services.feedback.support.outages import (
    emptied,
    images_in,
    labels_in,
    objects_in,
    prepared_store,
    unavailable,
)
from tests.support.waiting import retry_while_unavailable, until

_TIMEOUT_S = 1.0
_unavailable = partial(unavailable, timeout_s=_TIMEOUT_S)


@pytest.fixture
def settings(database: PostgresServer, s3: NanioServer) -> FeedbackSettings:
    return emptied(database, s3, _TIMEOUT_S)


@pytest.fixture
async def store(settings: FeedbackSettings) -> AsyncIterator[LabelService]:
    async with prepared_store(settings) as store:
        yield store


async def _reports(channel: grpc.aio.Channel, status: str) -> bool:
    stub = health_pb2_grpc.HealthStub(channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=2)
    return answer.status == health_pb2.HealthCheckResponse.ServingStatus.Value(status)


async def test_a_frozen_database_ends_calls_soon_and_the_readiness(
    settings: FeedbackSettings, database: PostgresServer
) -> None:
    usual = settings.model_copy(update={"database_timeout_s": 5.0})
    build = partial(feedback_service, usual)
    async with (
        running_server(usual, "magface.v1.FeedbackService", build) as address,
        open_channel(address) as channel,
        grpc.aio.insecure_channel(address) as plain,
    ):
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        await retry_while_unavailable(lambda: stub.GetStats(pb.GetStatsRequest(), timeout=30))
        with _frozen(database):
            started = time.monotonic()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await stub.GetStats(pb.GetStatsRequest(), timeout=60)
            assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
            assert time.monotonic() - started < 7
            await until(partial(_reports, plain, "NOT_SERVING"), 10 - time.monotonic() + started)
        await until(partial(_reports, plain, "SERVING"), 10)


@contextmanager
def _stopped(server: ChildProcess) -> Iterator[None]:
    # Not killed: orphaned backends of Postgres would answer for a moment.
    server.stop()
    try:
        yield
    finally:
        server.start()


@contextmanager
def _frozen(server: ChildProcess) -> Iterator[None]:
    parent = psutil.Process(server.pid)
    processes = [parent, *parent.children(recursive=True)]
    for process in processes:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGCONT)


@pytest.mark.parametrize("outage", [_stopped, _frozen])
async def test_with_postgres_away_nothing_is_stored_and_it_recovers(
    store: LabelService,
    database: PostgresServer,
    s3: NanioServer,
    outage: Callable[[ChildProcess], Any],
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
        assert objects_in(s3.settings()) == {sha256(1), sha256(2)}
    await retry_while_unavailable(lambda: store.submit(lost))
    await store.submit(lost)
    assert (await store.stats()).labels == labels_in(database.url)
    assert images_in(database.url) == objects_in(s3.settings()) == {sha256(n) for n in (1, 2, 3, 4)}


@pytest.mark.parametrize("outage", [_stopped, _frozen])
async def test_with_the_object_store_away_no_row_is_stored_and_it_recovers(
    store: LabelService,
    database: PostgresServer,
    s3: NanioServer,
    outage: Callable[[ChildProcess], Any],
) -> None:
    await store.submit(feedback(1, 2))
    lost = feedback(1, 3)
    with outage(s3):
        await asyncio.gather(
            *[_unavailable(store.submit(feedback(1, n))) for n in range(3, 23)],
            _unavailable(store.get_image(sha256(1))),
        )
        assert images_in(database.url) == {sha256(1), sha256(2)}
        assert labels_in(database.url) == 1

        await store.submit(feedback(image_a=sha256(1), image_b=sha256(2), annotator="bob"))
    await retry_while_unavailable(lambda: store.submit(lost))
    face, _ = await store.get_image(sha256(3))
    assert face.data
    assert labels_in(database.url) == 3


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
