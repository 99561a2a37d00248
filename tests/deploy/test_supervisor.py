"""Tests of the supervisor, with shell scripts as servers."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from deploy.local.child_process import ChildProcess, Command
from deploy.local.supervisor import StopRequested, Supervisor
from shared.errors import PreconditionFailed, Unavailable
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


def test_a_slow_start_says_what_it_waits_for(
    tmp_path: Path, supervisor: Supervisor, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.local.supervisor._TELL_EVERY_S", 0.1)
    slow = Script(tmp_path, "slow", "sleep 0.5; touch $0.up; sleep 60")
    slow.waits_for = "its first version"
    supervisor.bring_up([Script(tmp_path, "quick"), slow])
    assert any(line.startswith("slow waits for its first version (") for line in lines)


def test_one_that_says_it_cannot_start_is_not_started_again(
    tmp_path: Path, supervisor: Supervisor, lines: list[str]
) -> None:
    wrong = Script(tmp_path, "wrong", "echo 'the wrong one cannot start: MAGFACE_X: odd'; exit 1")
    with pytest.raises(PreconditionFailed, match=r"^the wrong one cannot start: MAGFACE_X: odd"):
        supervisor.bring_up([Script(tmp_path, "quick"), wrong])
    assert (tmp_path / "order").read_text().count("start wrong") == 1
    assert not any("restarts" in line for line in lines)


def test_a_full_disk_at_the_start_is_one_line(tmp_path: Path, supervisor: Supervisor) -> None:
    says = "FATAL:  could not write lock file: No space left on device"
    full = Script(tmp_path, "store", f"echo '{says}'; echo 'LOG:  shut down'; exit 2")
    with pytest.raises(PreconditionFailed) as failed:
        supervisor.bring_up([full])
    assert str(failed.value) == f"store: {says}; the log is {full.log_file}"
    assert (tmp_path / "order").read_text().count("start store") == 1


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


class Silent(Script):
    """Ready when it has created its file; answers while the file ``NAME.deaf`` does not exist."""

    def __init__(self, folder: Path, name: str, **limits: float) -> None:
        super().__init__(folder, name)
        self.silence_s = 1.0
        self.ready_timeout_s = limits.get("ready_timeout_s", 20.0)
        self.deaf = folder / f"{name}.deaf"

    def is_alive(self) -> bool:
        return not self.deaf.exists()

    def _answers(self) -> bool:
        return self.is_alive() and super()._answers()


def test_one_that_gives_no_answer_is_killed_and_started_again(
    tmp_path: Path, supervisor: Supervisor, stop: threading.Event, lines: list[str]
) -> None:
    server, other = Silent(tmp_path, "one"), Script(tmp_path, "other")
    supervisor.bring_up([server, other])
    first, others = server.pid, other.pid
    with _watching(supervisor, stop):
        server.deaf.touch()
        wait_until(lambda: server.pid != first, 20)
        server.deaf.unlink()
        wait_until(lambda: sum("one is ready" in line for line in lines) == 2, 20)
    assert "one gave no answer for 1 s and was killed" in lines
    assert other.pid == others


def test_one_that_answers_again_soon_or_is_not_ready_but_answers_is_left_alone(
    tmp_path: Path, supervisor: Supervisor, stop: threading.Event
) -> None:
    deaf, unready = Silent(tmp_path, "deaf"), Silent(tmp_path, "unready", ready_timeout_s=1.0)
    supervisor.bring_up([deaf, unready])
    first = deaf.pid
    with _watching(supervisor, stop):
        assert unready.pid is not None
        os.kill(unready.pid, signal.SIGKILL)
        unready._script = "sleep 60"
        for _ in range(3):
            deaf.deaf.touch()
            time.sleep(0.5)
            deaf.deaf.unlink()
            time.sleep(0.7)
        second = unready.pid
        time.sleep(0.5)
        assert unready.pid == second
    assert deaf.pid == first


def test_one_that_does_not_answer_after_its_restart_is_started_again(
    tmp_path: Path, supervisor: Supervisor, stop: threading.Event
) -> None:
    server = Silent(tmp_path, "one", ready_timeout_s=1.5)
    supervisor.bring_up([server])
    first = server.pid
    assert first is not None
    with _watching(supervisor, stop):
        server.deaf.touch()
        os.kill(first, signal.SIGKILL)
        wait_until(lambda: server.pid != first and server.running, 20)
        second = server.pid
        wait_until(lambda: server.pid != second and server.running, 20)


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
