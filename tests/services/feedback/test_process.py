"""Tests of the service as a process: killed, restarted, stopped."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from shared.rpc.channel import open_sync_channel
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.services.feedback.support.helpers import NOTHING, Stored, request, sha256
from tests.support.processes import ServiceProcess, service_environment
from tests.support.waiting import wait_until


@pytest.fixture
def service(
    database_url: str, object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> Iterator[ServiceProcess]:
    environment = service_environment(database_url, object_store_settings)
    with ServiceProcess("services.feedback", tmp_path / "feedback", environment) as service:
        yield service


@contextmanager
def _started(service: ServiceProcess) -> Iterator[feedback_pb2_grpc.FeedbackServiceStub]:
    with open_sync_channel(service.start()) as channel:
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        stub.GetStats(pb.GetStatsRequest(), wait_for_ready=True, timeout=60)
        yield stub


def test_killed_between_object_and_row_it_leaves_an_object_and_loses_nothing(
    service: ServiceProcess,
    object_store: ObjectStore,
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    label = request(1, 2)
    with (
        _started(service) as stub,
        psycopg.connect(database_url) as blocker,
    ):
        blocker.execute("LOCK TABLE feedback.images IN SHARE MODE")
        answer = stub.SubmitFeedback.future(label)
        wait_until(lambda: sum(1 for _ in object_store.list("images/")) == 2, 10)
        service.kill()
        with pytest.raises(grpc.RpcError):
            answer.result(timeout=10)
    left = stored()
    assert (left.images, left.pairs, left.labels, left.objects) == (0, 0, 0, 2)

    with _started(service) as stub:
        assert stub.SubmitFeedback(label).created
        assert not stub.SubmitFeedback(label).created
    assert stored() == Stored(2, 1, 1, 1, 1, objects=2)

    assert service.stop() == 0, service.log
    assert not service.has_address


def test_an_erasure_cut_off_by_kill_9_is_finished_after_the_restart(
    service: ServiceProcess,
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    label = request(1, 2)
    erase = pb.DeleteImageRequest(sha256=sha256(1), requested_by="dpo", request_id="ticket")
    with (
        _started(service) as stub,
        psycopg.connect(database_url) as blocker,
        psycopg.connect(database_url, autocommit=True) as watcher,
    ):
        stub.SubmitFeedback(label)
        blocker.execute("LOCK TABLE feedback.images IN SHARE MODE")
        answer = stub.DeleteImage.future(erase)
        intent = "SELECT FROM feedback.removals WHERE request_id = 'ticket'"
        wait_until(lambda: watcher.execute(intent).fetchone() is not None, 10)
        service.kill()
        with pytest.raises(grpc.RpcError):
            answer.result(timeout=10)
    assert (stored().images, stored().objects) == (2, 2)

    with _started(service) as stub:
        wait_until(lambda: stored().images == stored().objects == 1, 10)
        wait_until(lambda: len(stub.ListAudit(pb.ListAuditRequest()).entries) == 1, 10)
        assert stub.DeleteImage(erase).erasure.images == 1
    assert service.stop() == 0


def test_on_a_database_it_does_not_know_it_ends_and_says_why(
    service: ServiceProcess,
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    with _started(service):
        assert stored() == NOTHING
    assert service.stop() == 0
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.migrations (number, name, sha256) VALUES (99, '0099_new.sql', '')"
        )

    service.launch()
    assert service.wait() == 1
    assert "migrated by a newer version" in service.log
