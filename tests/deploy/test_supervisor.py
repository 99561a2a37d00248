"""Tests of the supervisor, with shell scripts as servers."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.child_process import ChildProcess, Command
from deploy.local.supervisor import StopRequested, Supervisor
from shared.errors import Unavailable
from tests.support.waiting import wait_until


class Script(ChildProcess):
    """Writes its start and stop to the file ``order``; ready when it has created its file."""

    def __init__(self, folder: Path, name: str, script: str = "touch $0.up; sleep 60") -> None:
        super().__init__(name, folder / f"{name}.log", ready_timeout_s=20, stop_grace_s=5)
        self._folder = folder
        self._script = script

    def _prepare(self) -> Command:
        self.up.unlink(missing_ok=True)
        script = f"echo start $0 >> order; trap 'echo stop $0 >> order; exit' TERM; {self._script}"
        waiting = script.replace("sleep 60", "sleep 60 & wait")
        return Command(argv=["/bin/sh", "-c", waiting, self.name], cwd=self._folder)

    def _answers(self) -> bool:
        return self.up.exists()

    @property
    def up(self) -> Path:
        return self._folder / f"{self.name}.up"


@pytest.fixture
def lines() -> list[str]:
    return []


@pytest.fixture
def stop() -> threading.Event:
    return threading.Event()


@pytest.fixture
def supervisor(lines: list[str], stop: threading.Event) -> Iterator[Supervisor]:
    supervisor = Supervisor(lines.append, stop)
    yield supervisor
    supervisor.stop_all()


@contextmanager
def _watching(supervisor: Supervisor, stop: threading.Event) -> Iterator[None]:
    watcher = threading.Thread(target=supervisor.watch)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def test_groups_start_in_order_and_stop_in_reverse(tmp_path: Path, supervisor: Supervisor) -> None:
    supervisor.bring_up([Script(tmp_path, "store")])
    supervisor.bring_up([Script(tmp_path, "service")])
    supervisor.stop_all()
    order = (tmp_path / "order").read_text().splitlines()
    assert order == ["start store", "start service", "stop service", "stop store"]


def test_what_is_killed_is_started_again_and_said_so(
    tmp_path: Path, supervisor: Supervisor, stop: threading.Event, lines: list[str]
) -> None:
    server = Script(tmp_path, "one")
    supervisor.bring_up([server, Script(tmp_path, "other")])
    first = server.pid
    assert first is not None
    with _watching(supervisor, stop):
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: server.pid != first and server.running and server.up.exists(), 20)
        wait_until(lambda: sum("one is ready" in line for line in lines) == 2, 20)
    assert any("one was killed by SIGKILL" in line for line in lines)
    assert (tmp_path / "order").read_text().count("start other") == 1


def test_pauses_grow_while_it_keeps_ending(
    tmp_path: Path, supervisor: Supervisor, stop: threading.Event, lines: list[str]
) -> None:
    server = Script(tmp_path, "one", "test -e broken && exit 4; touch $0.up; sleep 60")
    supervisor.bring_up([server])
    (tmp_path / "broken").touch()
    with _watching(supervisor, stop):
        server.ask_to_stop()
        wait_until(lambda: any("restarts in 1 s" in line for line in lines), 20)
        (tmp_path / "broken").unlink()
        wait_until(lambda: server.running and server.up.exists(), 20)
    pauses = [line.split()[-2] for line in lines if "restarts in" in line]
    assert pauses[:3] == ["0.25", "0.5", "1"]


def test_one_that_keeps_ending_at_the_start_is_given_up_with_its_log(
    tmp_path: Path, supervisor: Supervisor
) -> None:
    broken = Script(tmp_path, "broken", "echo the reason why; exit 4")
    with pytest.raises(Unavailable, match=r"broken exited with 4(.|\n)*the reason why"):
        supervisor.bring_up([Script(tmp_path, "fine"), broken])
    assert (tmp_path / "order").read_text().count("start broken") == 3


def test_a_stop_asked_for_during_the_start_is_obeyed(
    tmp_path: Path, supervisor: Supervisor, stop: threading.Event
) -> None:
    slow = Script(tmp_path, "slow", "sleep 60")
    threading.Timer(0.3, stop.set).start()
    with pytest.raises(StopRequested):
        supervisor.bring_up([slow])
    supervisor.stop_all()
    assert not slow.running
