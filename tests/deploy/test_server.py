"""Promises of a server that runs as our child."""

import os
import signal
import threading
from pathlib import Path

import pytest

from deploy.local.server import Command, LocalServer
from shared.errors import Unavailable


class Shell(LocalServer):
    """Runs a shell script, and is ready when that has made a file."""

    def __init__(self, folder: Path, script: str, **options: float) -> None:
        super().__init__("shell", folder / "shell.log", **options)  # type: ignore[arg-type]
        self._folder = folder
        self._script = script

    def _prepare(self) -> Command:
        return Command(argv=["/bin/sh", "-c", self._script], cwd=self._folder)

    def _answers(self) -> bool:
        return (self._folder / "up").exists()


def test_one_that_ends_at_once_is_reported_with_the_end_of_its_log(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"shell exited with 3.*\n.*no such luck"):
        Shell(tmp_path, "echo no such luck; exit 3").start()


def test_one_that_never_answers_is_ended_and_reported(tmp_path: Path) -> None:
    server = Shell(tmp_path, "echo thinking; sleep 60", ready_timeout_s=0.5)
    with pytest.raises(Unavailable, match=r"did not answer within 0.5 s.*\n.*thinking"):
        server.start()
    assert not server.running


def test_one_that_ignores_the_signal_to_stop_is_killed(tmp_path: Path) -> None:
    server = Shell(tmp_path, "trap '' TERM; touch up; sleep 60 & wait; wait", stop_grace_s=0.3)
    with server:
        pass
    assert not server.running


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    class Missing(Shell):
        def _prepare(self) -> Command:
            return Command(argv=["/nowhere/program"], cwd=self._folder)

    with pytest.raises(Unavailable, match="cannot run /nowhere/program: No such file"):
        Missing(tmp_path, "").start()


def test_it_outlives_the_thread_that_started_it(tmp_path: Path) -> None:
    server = Shell(tmp_path, "touch up; sleep 60")
    starter = threading.Thread(target=server.start)
    starter.start()
    starter.join()
    os.kill(server.pid or 0, signal.SIGCONT)
    assert server.is_ready()
    server.stop()


def test_it_gets_nothing_of_our_environment_but_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAGFACE_S3_SECRET_KEY", "ours")
    with Shell(tmp_path, "env; echo that was all; touch up; sleep 9"):
        pass
    assert "that was all" in (tmp_path / "shell.log").read_text()
    assert "ours" not in (tmp_path / "shell.log").read_text()
