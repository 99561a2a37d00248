"""Tests of child processes: start, readiness, stop, and end with the parent."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import child_process
from deploy.local.child_process import ChildProcess, Command
from shared.errors import PreconditionFailed, Unavailable
from tests.support.processes import lives
from tests.support.waiting import wait_until


class Shell(ChildProcess):
    """Runs a shell script; ready when the script has created the file ``up``."""

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


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_what_it_started_ends_with_it_even_if_it_is_suspended(tmp_path: Path, how: str) -> None:
    script = "sleep 60 & kill -STOP $!; echo $! > child; trap exit TERM; touch up; wait"
    with Shell(tmp_path, script, stop_grace_s=5) as server:
        child = int((tmp_path / "child").read_text())
        getattr(server, how)()
        assert not server.running
        wait_until(lambda: not lives(child), 5)


def test_a_program_that_is_missing_is_named(tmp_path: Path) -> None:
    class Missing(Shell):
        def _prepare(self) -> Command:
            return Command(argv=["/nowhere/program"], cwd=self._folder)

    with pytest.raises(
        Unavailable, match=r"shell exited with 127(.|\n)*/nowhere/program: not found"
    ):
        Missing(tmp_path, "").start()


@pytest.fixture
def fresh_setpriv_check() -> Iterator[None]:
    child_process._setpriv.cache_clear()
    yield
    child_process._setpriv.cache_clear()


@pytest.mark.usefixtures("fresh_setpriv_check")
def test_a_missing_setpriv_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionFailed, match=r"none is on the PATH: install util-linux"):
        Shell(tmp_path, "").start()


@pytest.mark.usefixtures("fresh_setpriv_check")
def test_a_setpriv_without_the_parent_death_signal_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    busybox = tmp_path / "setpriv"
    busybox.write_text("#!/bin/sh\necho 'Usage: setpriv [OPTIONS] PROG' >&2; exit 1\n")
    busybox.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PreconditionFailed, match=f"{busybox} has no --pdeathsig"):
        Shell(tmp_path, "").start()


def test_a_program_whose_parent_ended_before_it_was_bound_does_not_run(tmp_path: Path) -> None:
    command = Command(argv=["/bin/echo", "it runs"], cwd=tmp_path)
    # The shell in between is the parent, as init would be after this process ended.
    between = ["/bin/sh", "-c", '"$@"; echo "$?"', "sh", *command.bound_argv()]
    ended = subprocess.run(between, capture_output=True, text=True, check=False)
    assert ended.stdout == "1\n"
    assert "the parent process has ended" in ended.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_death_signal_is_sent_when_the_parent_is_killed(
    tmp_path: Path, number: signal.Signals
) -> None:
    trap = f"trap 'echo {number.name} > {tmp_path}/got; exit' {number.name.removeprefix('SIG')}"
    script = (
        "import signal, subprocess, sys, time\n"
        "from pathlib import Path\n"
        "from deploy.local.child_process import Command\n"
        "argv = ['/bin/sh', '-c', sys.argv[2] + '; echo $$; while :; do sleep 0.05; done']\n"
        "number = signal.Signals(int(sys.argv[1]))\n"
        # A shell that runs the tests in the background has them ignore SIGINT.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "command = Command(argv, Path('/'), death_signal=number)\n"
        "subprocess.run(command.bound_argv(), start_new_session=True)\n"
    )
    trapped = "true" if number is signal.SIGKILL else trap
    parent = subprocess.Popen(
        [sys.executable, "-c", script, str(int(number)), trapped], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not lives(child), timeout_s=5)
    caught = (tmp_path / "got").exists()
    assert caught == (number is not signal.SIGKILL)


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
