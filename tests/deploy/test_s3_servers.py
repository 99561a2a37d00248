"""Tests of the local S3 servers."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from pydantic import SecretStr

from deploy.local.s3_nanio import NanioServer, S3Server
from shared.errors import Unavailable
from shared.storage.objects import ObjectStore
from tests.support.details import raises_with_details
from tests.support.processes import lives
from tests.support.seaweedfs import SeaweedServer
from tests.support.waiting import wait_until


@pytest.fixture(scope="module", params=[NanioServer, SeaweedServer])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[S3Server]:
    with request.param(tmp_path_factory.mktemp("s3") / "server") as server:
        yield server


def test_objects_are_found_again_after_a_stop_and_after_kill(server: S3Server) -> None:
    store = ObjectStore(server.settings())
    store.put("kept/one", b"1" * 5000)
    server.stop()
    server.start()
    store.put("kept/two", b"2" * 5000)
    server.kill()
    server.start()
    assert store.get("kept/one") == b"1" * 5000
    assert store.get("kept/two") == b"2" * 5000


def test_it_listens_on_the_loopback_only(server: S3Server) -> None:
    assert server.pid is not None
    connections = psutil.Process(server.pid).net_connections(kind="inet")
    listening = {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN}
    assert listening == {"127.0.0.1"}


def test_a_wrong_secret_is_refused_and_the_right_one_is_secret(server: S3Server) -> None:
    wrong = server.settings().model_copy(update={"s3_secret_key": SecretStr("guessed")})
    with raises_with_details(Unavailable, match="SignatureDoesNotMatch"):
        ObjectStore(wrong).put("x", b"x")
    folder = server.log_file.parent
    for name in ("credentials.json", "s3.json"):
        assert not (folder / name).exists() or (folder / name).stat().st_mode & 0o077 == 0
    arguments = Path(f"/proc/{server.pid}/cmdline").read_text()
    assert server.settings().s3_secret_key.get_secret_value() not in arguments


def test_nothing_is_left_in_tmp(tmp_path: Path) -> None:
    def sockets() -> set[str]:
        return {path.name for path in Path("/tmp").glob("seaweedfs-*.sock")}  # noqa: S108

    server = SeaweedServer(tmp_path)
    with server:
        book = (tmp_path / "ports.json").read_text()
    assert not [name for name in sockets() if name.split("-")[-1].removesuffix(".sock") in book]


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from deploy.local.s3_nanio import NanioServer\n"
        "server = NanioServer(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not lives(pid), timeout_s=5)
