"""The service as the process it is in production: killed, restarted, refused, stopped."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.settings import FeedbackSettings
from shared.rpc.channel import open_sync_channel
from shared.storage.objects import ObjectStore
from tests.feedback.helpers import NOTHING, Stored, request, sha256
from tests.support.waiting import wait_until


def _start(settings: FeedbackSettings, endpoint_file: Path) -> subprocess.Popen[bytes]:
    environment = {
        "PATH": os.environ["PATH"],
        "MAGFACE_DATABASE_URL": settings.database_url.get_secret_value(),
        "MAGFACE_S3_ENDPOINT": settings.s3_endpoint,
        "MAGFACE_S3_ACCESS_KEY": settings.s3_access_key,
        "MAGFACE_S3_SECRET_KEY": settings.s3_secret_key.get_secret_value(),
        "MAGFACE_S3_BUCKET": settings.s3_bucket,
        "MAGFACE_ENDPOINT_FILE": str(endpoint_file),
    }
    return subprocess.Popen(
        [sys.executable, "-m", "services.feedback"], env=environment, stderr=subprocess.PIPE
    )


@contextmanager
def _connected(endpoint_file: Path) -> Iterator[feedback_pb2_grpc.FeedbackServiceStub]:
    wait_until(endpoint_file.exists, 20)
    with open_sync_channel(endpoint_file.read_text()) as channel:
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        stub.GetStats(pb.GetStatsRequest(), wait_for_ready=True, timeout=20)
        yield stub


def test_killed_between_object_and_row_it_leaves_an_object_and_loses_nothing(
    settings: FeedbackSettings,
    object_store: ObjectStore,
    stored: Callable[[], Stored],
    database_url: str,
    tmp_path: Path,
) -> None:
    label = request(1, 2)
    service = _start(settings, tmp_path / "first")
    with (
        _connected(tmp_path / "first") as stub,
        psycopg.connect(database_url) as blocker,
    ):
        blocker.execute("LOCK TABLE feedback.images IN SHARE MODE")
        answer = stub.SubmitFeedback.future(label)
        wait_until(lambda: sum(1 for _ in object_store.list("images/")) == 2, 10)
        service.kill()
        service.communicate()
        with pytest.raises(grpc.RpcError):
            answer.result(timeout=10)
    left = stored()
    assert (left.images, left.pairs, left.labels, left.objects) == (0, 0, 0, 2)

    service = _start(settings, tmp_path / "second")
    with _connected(tmp_path / "second") as stub:
        assert stub.SubmitFeedback(label).created
        assert not stub.SubmitFeedback(label).created
    assert stored() == Stored(2, 1, 1, 1, 1, objects=2)

    service.send_signal(signal.SIGTERM)
    _, log = service.communicate(timeout=15)
    assert service.returncode == 0, log
    assert not (tmp_path / "second").exists()


def test_an_erasure_cut_off_by_kill_9_is_finished_after_the_restart(
    settings: FeedbackSettings,
    stored: Callable[[], Stored],
    database_url: str,
    tmp_path: Path,
) -> None:
    label = request(1, 2)
    erase = pb.DeleteImageRequest(sha256=sha256(1), requested_by="dpo", request_id="ticket")
    service = _start(settings, tmp_path / "first")
    with (
        _connected(tmp_path / "first") as stub,
        psycopg.connect(database_url) as blocker,
        psycopg.connect(database_url, autocommit=True) as watcher,
    ):
        stub.SubmitFeedback(label)
        blocker.execute("LOCK TABLE feedback.images IN SHARE MODE")
        answer = stub.DeleteImage.future(erase)
        intent = "SELECT FROM feedback.removals WHERE request_id = 'ticket'"
        wait_until(lambda: watcher.execute(intent).fetchone() is not None, 10)
        service.kill()
        service.communicate()
        with pytest.raises(grpc.RpcError):
            answer.result(timeout=10)
    assert (stored().images, stored().objects) == (2, 2)

    service = _start(settings, tmp_path / "second")
    with _connected(tmp_path / "second") as stub:
        wait_until(lambda: stored().images == stored().objects == 1, 10)
        wait_until(lambda: len(stub.ListAudit(pb.ListAuditRequest()).entries) == 1, 10)
        assert stub.DeleteImage(erase).erasure.images == 1
    service.terminate()
    service.communicate(timeout=15)


def test_on_a_database_it_does_not_know_it_ends_and_says_why(
    settings: FeedbackSettings,
    stored: Callable[[], Stored],
    database_url: str,
    tmp_path: Path,
) -> None:
    service = _start(settings, tmp_path / "old")
    with _connected(tmp_path / "old"):
        assert stored() == NOTHING
    service.terminate()
    service.communicate(timeout=15)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.migrations (number, name, sha256) VALUES (99, '0099_new.sql', '')"
        )

    service = _start(settings, tmp_path / "older")
    _, log = service.communicate(timeout=20)
    assert service.returncode != 0
    assert b"the database is newer" in log
