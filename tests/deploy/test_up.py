"""Tests of `magface up` with the real command and services."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest
from magface.v1 import feedback_pb2, feedback_pb2_grpc

from cli.rendering.renderer import render_person
from deploy.local.endpoints import Endpoints
from deploy.local.state_files import is_released
from shared.rpc.channel import open_sync_channel
from shared.rpc.health import is_serving
from tests.support.waiting import wait_until

_START_S = 120
# What this process has set for itself must not keep the product from setting it.
_UNSET = {
    name: value
    for name, value in os.environ.items()
    if name not in ("ORT_DISABLE_TELEMETRY", "MPLCONFIGDIR") and not name.startswith("XDG_")
}
_PARTS = ("postgres", "nanio", "services.feedback", "services.trainer", "services.embedder")


def _free_ports() -> int:
    """Find a port that is free like the next two, and those 1000 above.

    The processes of a parallel run look in places of their own: one would find a port free that
    the other is about to use.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = 10_000 + 300 * (worker % 3)
    for port in range(first, first + 300, 10):
        wanted = [port + offset for offset in (0, 1, 2, 1000, 1001, 1002)]
        if all(is_released(each, within_s=0) for each in wanted):
            return port
    raise AssertionError("no free ports")


class Up:
    """`magface up` as a process, with its own home, temporary and working folders."""

    def __init__(self, around: Path) -> None:
        self.folder = around / "run"
        self._outside = [around / name for name in ("home", "tmp", "cwd")]
        self.port = _free_ports()
        self.process: subprocess.Popen[str] | None = None

    def command(self, *options: str, **settings: str) -> subprocess.Popen[str]:
        home, scratch, cwd = self._outside
        for folder in self._outside:
            folder.mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-m", "cli", "up", "--dir", str(self.folder), "--json", *options],
            cwd=cwd,
            env={**_UNSET, "HOME": str(home), "TMPDIR": str(scratch), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start(self) -> Endpoints:
        self.process = self.command("--port", str(self.port))
        wait_until(self._ready_or_ended, _START_S)
        return self.endpoints()

    def endpoints(self) -> Endpoints:
        endpoints = Endpoints.read(self.folder)
        assert endpoints is not None
        return endpoints

    def _ready_or_ended(self) -> bool:
        assert self.process is not None
        endpoints = Endpoints.read(self.folder)
        ready = endpoints is not None and endpoints.pid == self.process.pid
        return ready or self.process.poll() is not None

    def end(self, number: signal.Signals) -> tuple[int, str]:
        assert self.process is not None
        self.process.send_signal(number)
        output, _ = self.process.communicate(timeout=40)
        return self.process.returncode, output

    def children(self) -> list[psutil.Process]:
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def part(self, name: str) -> psutil.Process:
        return next(child for child in self.children() if any(name in c for c in child.cmdline()))

    def files_outside(self) -> list[Path]:
        return [path for folder in self._outside for path in folder.rglob("*")]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up"))
    up.start()
    yield up
    if up.process is not None and up.process.poll() is None:
        up.end(signal.SIGTERM)


def _submit(endpoints: Endpoints, person: int) -> None:
    import cv2

    def picture(image: int) -> feedback_pb2.ImageRef:
        data = cv2.imencode(".png", render_person(person, image))[1].tobytes()
        return feedback_pb2.ImageRef(image={"data": data, "alignment": "ALIGNMENT_ALIGNED"})

    request = feedback_pb2.SubmitFeedbackRequest(
        image_a=picture(0),
        image_b=picture(1),
        label=feedback_pb2.LABEL_SAME,
        annotator="test",
        idempotency_key=str(person),
    )
    with open_sync_channel(endpoints.feedback) as channel:
        feedback_pb2_grpc.FeedbackServiceStub(channel).SubmitFeedback(request, timeout=30)


def _labels(endpoints: Endpoints) -> int:
    with open_sync_channel(endpoints.feedback) as channel:
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        return stub.GetStats(feedback_pb2.GetStatsRequest(), timeout=30).labels


@pytest.mark.parametrize("name", _PARTS)
def test_a_part_that_is_killed_comes_back_at_its_address(up: Up, name: str) -> None:
    before = up.part(name)
    before.kill()
    wait_until(lambda: before not in up.children(), 10)
    wait_until(lambda: any(name in c for p in up.children() for c in p.cmdline()), 30)
    endpoints = up.endpoints()
    for address in (endpoints.feedback, endpoints.trainer, *endpoints.embedders):
        wait_until(lambda address=address: is_serving(address), 60)
    _submit(endpoints, _PARTS.index(name))


@pytest.mark.slow
def test_a_service_that_gives_no_answer_is_replaced_with_its_children(up: Up) -> None:
    before = up.part("services.embedder")
    children = before.children(recursive=True)
    assert children
    before.suspend()
    wait_until(lambda: not before.is_running(), 60)
    wait_until(lambda: not any(child.is_running() for child in children), 10)
    wait_until(lambda: is_serving(up.endpoints().embedder), 60)


def test_a_second_one_on_the_same_folder_is_refused(up: Up) -> None:
    assert up.process is not None
    second = up.command()
    output, complaint = second.communicate(timeout=60)
    assert second.returncode == 1
    assert output == ""
    assert f"another stack (process {up.process.pid}) runs in {up.folder}" in complaint
    assert is_serving(up.endpoints().embedder)


def test_the_services_have_the_ports_that_were_asked_for(up: Up) -> None:
    endpoints = up.endpoints()
    host = "127.0.0.1"
    found = (endpoints.embedder, endpoints.feedback, endpoints.trainer)
    assert found == tuple(f"{host}:{up.port + number}" for number in range(3))
    assert set(endpoints.metrics) == {"embedder-1", "feedback", "trainer"}
    for address in endpoints.metrics.values():
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as page:
            assert b"magface_rpc_calls" in page.read()


def test_a_port_that_is_in_use_is_said(up: Up, tmp_path: Path) -> None:
    other = Up(tmp_path)
    ended = other.command("--port", str(up.port))
    output, complaint = ended.communicate(timeout=60)
    assert (ended.returncode, output) == (1, "")
    assert f"port {up.port + 1} of 127.0.0.1, for the feedback, is in use" in complaint


@pytest.mark.parametrize("place", ["environment", "file"])
def test_stores_of_ones_own_are_refused_not_ignored(tmp_path: Path, place: str) -> None:
    up = Up(tmp_path)
    settings = {"MAGFACE_DATABASE_URL": "postgresql://me:topsecret@127.0.0.1/x"}
    if place == "file":
        (tmp_path / "cwd").mkdir()
        lines = [f"{name}={value}" for name, value in settings.items()]
        (tmp_path / "cwd" / ".env").write_text("\n".join(lines))
        settings = {}
    ended = up.command(**settings)
    output, complaint = ended.communicate(timeout=60)
    assert (ended.returncode, output) == (1, "")
    assert complaint.startswith("magface: MAGFACE_DATABASE_URL cannot be used")
    assert "magface serve" in complaint
    assert "topsecret" not in complaint


def test_secrets_are_for_the_owner_alone(up: Up) -> None:
    for path in (up.folder, *up.folder.rglob("*")):
        if not path.is_relative_to(up.folder / "postgres" / "data"):
            # The server gives its own files to its own user.
            assert path.lstat().st_mode & 0o077 == 0, path
    secret_files = [up.folder / "endpoints.json", up.folder / "objects" / "credentials.json"]
    for path in (*secret_files, up.folder / "postgres" / "password"):
        assert path.stat().st_mode & 0o077 == 0
    endpoints = up.endpoints()
    secrets = (_password(up), endpoints.s3.access_key, endpoints.s3.secret_key)
    for child in up.children():
        assert not any(secret in word for word in child.cmdline() for secret in secrets)


def _password(up: Up) -> str:
    return (up.folder / "postgres" / "password").read_text()


def test_nothing_outside_its_folder_is_written(up: Up) -> None:
    assert up.files_outside() == []
    # Nor inside the folder: ONNX Runtime would write an id of the device for its telemetry.
    assert [path for path in up.folder.rglob("*") if "Microsoft" in path.parts] == []
    for child in up.children():
        for file in child.open_files():
            if file.mode != "r":
                assert Path(file.path).is_relative_to(up.folder.resolve())


def test_data_and_addresses_survive_kill_9_of_everything(up: Up) -> None:
    before = up.endpoints()
    _submit(before, 100)
    labels = _labels(before)
    children = up.children()
    up.end(signal.SIGKILL)
    wait_until(lambda: not any(child.is_running() for child in children), 10)
    after = up.start()
    assert after.model_copy(update={"pid": before.pid}) == before
    assert _labels(after) == labels


def test_sigterm_stops_everything_cleanly(up: Up) -> None:
    endpoints = up.endpoints()
    children = up.children()
    started = time.monotonic()
    code, output = up.end(signal.SIGTERM)
    assert code == 0
    assert time.monotonic() - started < 20
    assert json.loads(output) == endpoints.without_secrets()
    assert endpoints.metrics
    for secret in (endpoints.database_url, endpoints.s3.access_key, endpoints.s3.secret_key):
        assert secret not in output
    assert _password(up) not in output
    assert not any(child.is_running() for child in children)
    assert Endpoints.read(up.folder) is None
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(endpoints.database_url, connect_timeout=2)
    up.start()
    assert (
        "database system was shut down at"
        in ((up.folder / "logs" / "postgres.log").read_text().split("starting PostgreSQL")[-1])
    )
