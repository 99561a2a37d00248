"""Tests of the embedded Postgres."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from deploy.local import postgres as postgres_module
from deploy.local.postgres import PostgresServer
from deploy.local.state_files import PortBook
from shared.errors import PreconditionFailed
from tests.support.processes import lives
from tests.support.waiting import wait_until


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    with PostgresServer(tmp_path_factory.mktemp("pg") / "postgres") as server:
        yield server


def _rows(url: str) -> list[tuple[int]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT n FROM kept").fetchall()


def test_data_is_found_again_after_a_stop_and_after_kill(server: PostgresServer) -> None:
    url = server.create_database("durable")
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE kept (n int)")
        connection.execute("INSERT INTO kept VALUES (7)")
    server.stop()
    server.start()
    assert server.create_database("durable") == url
    assert _rows(url) == [(7,)]
    server.kill()
    server.start()
    assert _rows(url) == [(7,)]


def test_it_starts_although_backends_of_a_killed_server_are_still_there(
    server: PostgresServer,
) -> None:
    backend = psycopg.connect(server.url)
    backend_pid = backend.info.backend_pid
    os.kill(backend_pid, signal.SIGSTOP)
    server.kill()
    resume = subprocess.Popen(["sh", "-c", f"sleep 1; kill -CONT {backend_pid}"])
    server.start()
    assert not lives(backend_pid)
    resume.wait()


def test_it_starts_although_a_leftover_pid_file_names_a_living_process(
    server: PostgresServer,
) -> None:
    server.stop()
    user = "nobody" if os.geteuid() == 0 else None
    stranger = subprocess.Popen(["sleep", "60"], user=user, cwd="/")
    data = server.log_file.parent / "data"
    lines = [str(stranger.pid), str(data), "0", "1", "", "127.0.0.1", "0 0", "ready", ""]
    (data / "postmaster.pid").write_text("\n".join(lines))
    server.start()
    assert server.is_ready()
    stranger.kill()
    stranger.wait()


def test_a_second_server_on_the_same_folder_is_refused(
    server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_module, "_LEFTOVER_WAIT_S", 0.2)
    second = PostgresServer(server.log_file.parent)
    with pytest.raises(PreconditionFailed, match=f"process {server.pid}"):
        second.start()
    assert server.is_ready()


def test_an_interrupted_first_start_leaves_nothing_that_blocks_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "postgres"
    (folder / "data.new").mkdir(parents=True)
    (folder / "data.new" / "half").write_text("a cluster")
    with PostgresServer(folder) as server:
        assert server.is_ready()
        assert not (folder / "data.new").exists()


def test_a_wrong_password_is_refused_and_the_right_one_is_secret(server: PostgresServer) -> None:
    wrong = server.url.replace("magface:", "magface:x", 1)
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(wrong)
    assert (server.log_file.parent / "password").stat().st_mode & 0o077 == 0


def test_it_listens_on_the_loopback_only_and_is_not_root(server: PostgresServer) -> None:
    assert server.pid is not None
    process = psutil.Process(server.pid)
    listening = [c.laddr.ip for c in process.net_connections() if c.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]
    assert process.uids().effective != 0


def test_pgvector_is_there(server: PostgresServer) -> None:
    with psycopg.connect(server.create_database("vectors")) as connection:
        connection.execute("CREATE EXTENSION vector")
        row = connection.execute("SELECT '[1,2]'::vector <-> '[1,5]'::vector").fetchone()
    assert row == (3.0,)


def test_no_folder_above_its_own_is_changed(server: PostgresServer) -> None:
    folder = server.log_file.parent
    assert folder.parent.stat().st_mode & 0o077 == 0
    assert folder.parent.stat().st_uid == os.getuid()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = (
        "import pathlib, sys, time\n"
        "from deploy.local.postgres import PostgresServer\n"
        "server = PostgresServer(pathlib.Path(sys.argv[1]))\n"
        "server.start()\n"
        "print(server.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "pg")], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    owner.kill()
    owner.wait()
    owner.stdout.close()
    wait_until(lambda: not lives(pid), timeout_s=5)


def test_a_port_is_kept_unless_another_program_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.state_files._RELEASE_WAIT_S", 0.1)
    book = PortBook(tmp_path / "ports.json")
    port = book.take("a")
    assert PortBook(tmp_path / "ports.json").take("a") == port
    assert book.take("b") != port
    with socket.create_server(("127.0.0.1", port)):
        other = book.take("a")
        assert other != port
    assert book.take("a") == other
