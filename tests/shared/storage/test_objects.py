import hashlib
import http.server
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from deploy.local.s3_nanio import NanioServer
from shared.errors import CorruptData, NotFound, Unavailable
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore, image_key
from tests.support.details import raises_with_details
from tests.support.seaweedfs import SeaweedServer
from tests.support.waiting import wait_until


@pytest.fixture(params=["seaweedfs", "nanio"], scope="module")
def any_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ObjectStore]:
    if request.param == "seaweedfs":
        server: SeaweedServer = request.getfixturevalue("seaweedfs")
        yield _on_bucket(server.settings(), "objects-tests")
        return
    with NanioServer(tmp_path_factory.mktemp("nanio")) as nanio:
        yield _on_bucket(nanio.settings(), "objects-tests")


def _on_bucket(settings: ObjectStoreSettings, bucket: str) -> ObjectStore:
    store = ObjectStore(settings.model_copy(update={"s3_bucket": bucket}))
    store.ensure_bucket()
    return store


def test_put_gives_back_the_same_bytes(any_store: ObjectStore) -> None:
    for size in (0, 1, 100_000):
        data = os.urandom(size)
        any_store.put(f"round/{size}", data)
        assert any_store.get(f"round/{size}") == data


def test_put_replaces_what_was_there(any_store: ObjectStore) -> None:
    any_store.put("replaced", b"a longer old one")
    any_store.put("replaced", b"new")
    assert any_store.get("replaced") == b"new"


def test_file_of_many_parts_comes_back_whole(any_store: ObjectStore, tmp_path: Path) -> None:
    data = os.urandom(35 * 2**20)
    (tmp_path / "in").write_bytes(data)
    any_store.put_file("large", tmp_path / "in")
    any_store.get_file("large", tmp_path / "out", sha256=hashlib.sha256(data).hexdigest())
    assert (tmp_path / "out").read_bytes() == data
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


def test_stat_tells_size_and_time(any_store: ObjectStore) -> None:
    any_store.put("stat", b"12345")
    found = any_store.stat("stat")
    assert (found.key, found.size) == ("stat", 5)
    assert abs(datetime.now(UTC) - found.modified_at) < timedelta(minutes=1)


def test_list_gives_every_key_under_the_prefix(any_store: ObjectStore) -> None:
    keys = [f"listed/{number}/x" for number in range(5)]
    for key in [*keys, "listed-not"]:
        any_store.put(key, b"x")
    assert [found.key for found in any_store.list("listed/")] == keys
    assert list(any_store.list("nothing/")) == []


def test_list_goes_on_after_its_first_page(object_store: ObjectStore) -> None:
    keys = [f"{number:04}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: object_store.put(key, b"x"), keys))
    assert [found.key for found in object_store.list()] == keys


def test_what_is_not_there_is_not_found(any_store: ObjectStore, tmp_path: Path) -> None:
    assert not any_store.exists("absent")
    for read in (
        lambda: any_store.get("absent"),
        lambda: any_store.stat("absent"),
        lambda: any_store.get_file("absent", tmp_path / "out"),
    ):
        with raises_with_details(NotFound, match="absent"):
            read()
    assert list(tmp_path.iterdir()) == []


def test_remove_is_the_same_twice(any_store: ObjectStore) -> None:
    any_store.put("removed", b"x")
    any_store.remove("removed")
    any_store.remove("removed")
    assert not any_store.exists("removed")


def test_another_content_than_the_hash_is_refused(any_store: ObjectStore, tmp_path: Path) -> None:
    any_store.put("tampered", b"other")
    wanted = hashlib.sha256(b"original").hexdigest()
    (tmp_path / "out").write_bytes(b"before")
    with raises_with_details(CorruptData, match="tampered"):
        any_store.get("tampered", sha256=wanted)
    with raises_with_details(CorruptData, match="tampered"):
        any_store.get_file("tampered", tmp_path / "out", sha256=wanted)
    assert (tmp_path / "out").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_many_threads_share_one_store(any_store: ObjectStore) -> None:
    def round_trip(number: int) -> bool:
        data = f"{number}".encode() * 1000
        any_store.put(f"threads/{number}", data)
        return any_store.get(f"threads/{number}") == data

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(round_trip, range(200)))


def test_ensure_bucket_at_once_from_many_threads(any_store: ObjectStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: any_store.ensure_bucket(), range(8)))


def test_images_are_named_by_their_hash() -> None:
    sha256 = hashlib.sha256(b"image").hexdigest()
    assert image_key(sha256) == f"images/{sha256[:2]}/{sha256[2:4]}/{sha256}"


def test_wrong_secret_is_unavailable_and_says_so(
    object_store_settings: ObjectStoreSettings,
) -> None:
    wrong = object_store_settings.model_copy(update={"s3_secret_key": SecretStr("wrong")})
    with raises_with_details(Unavailable, match=r"SignatureDoesNotMatch|AccessDenied"):
        ObjectStore(wrong).put("key", b"x")


def test_missing_bucket_is_not_taken_for_a_missing_object(
    object_store_settings: ObjectStoreSettings,
) -> None:
    store = ObjectStore(object_store_settings.model_copy(update={"s3_bucket": "never-made"}))
    with raises_with_details(Unavailable, match="never-made"):
        store.get("key")


def test_server_killed_and_started_again_is_used_again(tmp_path: Path) -> None:
    with NanioServer(tmp_path) as server:
        store = _on_bucket(server.settings(), "killed")
        store.put("kept", b"x")
        server.kill()
        started = time.monotonic()
        for read in (lambda: store.get("kept"), lambda: store.exists("kept")):
            with raises_with_details(Unavailable, match="cannot be reached"):
                read()
        with raises_with_details(Unavailable, match="cannot be reached"):
            store.put("new", b"x")
        assert time.monotonic() - started < 5
        server.start()
        assert store.get("kept") == b"x"
        assert not store.exists("new")


def test_frozen_server_is_unavailable_in_time_and_used_again(
    seaweedfs: SeaweedServer, object_store_settings: ObjectStoreSettings
) -> None:
    store = ObjectStore(object_store_settings.model_copy(update={"s3_timeout_s": 1.0}))
    store.put("kept", b"x")
    with _frozen(seaweedfs):
        for call in (lambda: store.get("kept"), lambda: store.put("new", b"x")):
            started = time.monotonic()
            with raises_with_details(Unavailable, match="cannot be reached"):
                call()
            assert time.monotonic() - started < 4
    assert store.get("kept") == b"x"


@contextmanager
def _frozen(server: SeaweedServer) -> Iterator[None]:
    assert server.pid is not None
    os.killpg(server.pid, signal.SIGSTOP)
    stopped = psutil.Process(server.pid)
    wait_until(lambda: stopped.status() == psutil.STATUS_STOPPED, 10)
    try:
        yield
    finally:
        os.killpg(server.pid, signal.SIGCONT)


class _BadServer(http.server.BaseHTTPRequestHandler):
    """Announces 100 bytes for every GET; the path selects how the response is broken."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/bucket?location"):
            self._answer(200, b"<LocationConstraint>us-east-1</LocationConstraint>")
            return
        if self.path.startswith("/bucket/failing"):
            self._answer(503, b"")
            return
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.send_header("ETag", '"0123"')
        self.end_headers()
        if self.path.startswith("/bucket/truncated"):
            self.wfile.write(b"x" * 40)
            self.close_connection = True
            return
        for _ in range(100):
            self.wfile.write(b"x")
            time.sleep(0.1)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def bad_store() -> Iterator[ObjectStore]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _BadServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = ObjectStore(
            ObjectStoreSettings(
                s3_endpoint=f"127.0.0.1:{server.server_port}",
                s3_access_key="key",
                s3_secret_key=SecretStr("secret"),
                s3_bucket="bucket",
                s3_timeout_s=0.5,
            )
        )
        yield store
        server.shutdown()


@pytest.mark.parametrize(
    ("key", "why"),
    [("truncated", "incomplete|IncompleteRead"), ("dripping", "slower"), ("failing", "503")],
)
def test_bad_answers_are_unavailable_in_time(bad_store: ObjectStore, key: str, why: str) -> None:
    started = time.monotonic()
    with raises_with_details(Unavailable, match=why):
        bad_store.get(key)
    assert time.monotonic() - started < 5


def test_no_route_is_unavailable_in_time() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        settings = ObjectStoreSettings(
            s3_endpoint=f"127.0.0.1:{full.getsockname()[1]}",
            s3_access_key="key",
            s3_secret_key=SecretStr("secret"),
            s3_timeout_s=0.5,
        )
        started = time.monotonic()
        with raises_with_details(Unavailable, match="cannot be reached"):
            ObjectStore(settings).ensure_bucket()
        assert time.monotonic() - started < 4
