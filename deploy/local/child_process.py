"""A server that runs as a child process and ends with its parent."""

import errno
import functools
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deploy.local.postgres_user import UnixUser
from shared.errors import PreconditionFailed, Unavailable
from shared.files import PRIVATE

_LOG_LIMIT_BYTES = 10 * 2**20
_POLL_S = 0.05
# What a service prints before it ends because of a setting, which another start would not change.
_LOOKED_AT_LINES = 15
_NO_ROOM = os.strerror(errno.ENOSPC)
_REFUSAL = re.compile(r"^\S.* cannot (start|run): ")

# Run after setpriv has set the signal: a parent that ended before that would leave an orphan.
_CHECK_PARENT = """[ "$PPID" = "$1" ] || { echo "the parent process has ended" >&2; exit 1; }
shift
exec "$@"
"""

# The parent-death signal is sent when the *thread* that started the child ends, so all children
# are started by one thread that lives as long as the process.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


@dataclass(frozen=True)
class Command:
    """How to start a program.

    Attributes:
        argv: The program's full path and its arguments.
        env: Its whole environment.
        user: User to run as; None for the user of this process.
        death_signal: What the program gets when this process dies without stopping it.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    user: UnixUser | None = None
    death_signal: signal.Signals = signal.SIGKILL

    def bound_argv(self) -> list[str]:
        """Gives the argument list that runs the program and ends it with this process.

        On Linux, util-linux's ``setpriv`` sets the user and the parent-death signal. Other
        systems have no such signal: there the program runs on when this process is killed.

        Raises:
            PreconditionFailed: ``setpriv`` is missing or has no ``--pdeathsig``.
        """
        if sys.platform != "linux":
            return list(self.argv)
        options = ["--pdeathsig", self.death_signal.name.removeprefix("SIG")]
        if self.user is not None:
            options += [f"--reuid={self.user.uid}", f"--regid={self.user.gid}", "--clear-groups"]
            if self.user.capability is not None:
                options += [
                    f"--inh-caps=-all,+{self.user.capability.name}",
                    f"--ambient-caps=-all,+{self.user.capability.name}",
                ]
        check = ["/bin/sh", "-c", _CHECK_PARENT, "sh", str(os.getpid())]
        return [_setpriv(), *options, "--", *check, *self.argv]


@functools.cache
def _setpriv() -> str:
    path = shutil.which("setpriv")
    if path is not None:
        shown = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
        if "--pdeathsig" in shown.stdout:
            return path
    raise PreconditionFailed(
        "the embedded stack needs setpriv of util-linux 2.33 or newer, to end its servers when it "
        f"is killed; {'none is on the PATH' if path is None else f'{path} has no --pdeathsig'}: "
        "install util-linux"
    )


class ChildProcess(ABC):
    """One server process; a context manager that starts and stops it.

    It can be started again after `stop`, after `kill`, and after it ended by itself.

    Args:
        name: For messages.
        log_file: Receives what the server prints; rotated above 10 MB.
        stop_signal: Signal that ends the server.
        stop_grace_s: Seconds between that signal and SIGKILL.
        ready_timeout_s: Seconds from the start to the first answer.
        silence_s: Seconds without an answer after which a server that was ready is taken for
            stuck, and one that starts after `ready_timeout_s`; None if it never is.
        waits_for: What it needs before it is ready, for people.
    """

    def __init__(
        self,
        name: str,
        log_file: Path,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_grace_s: float = 10.0,
        ready_timeout_s: float = 60.0,
        silence_s: float | None = None,
        waits_for: str = "its first answer",
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.ready_timeout_s = ready_timeout_s
        self.stop_grace_s = stop_grace_s
        self.silence_s = silence_s
        self.waits_for = waits_for
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @abstractmethod
    def _prepare(self) -> Command:
        """Writes the files that the server needs, and gives the command that starts it."""

    @abstractmethod
    def _answers(self) -> bool:
        """Tells whether the server does its work; takes about a second at most."""

    def is_alive(self) -> bool:
        """Tells whether the server answers at all, ready or not; takes some seconds at most."""
        return self._answers()

    @property
    def pid(self) -> int | None:
        """Process id; None when it has not been started."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Starts the process and returns at once.

        Raises:
            PreconditionFailed: Something that it needs is not installed, or another instance
                runs in its folder.
        """
        command = self._prepare()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with self.log_file.open("ab") as log:
            self._log_start = log.tell()
            self._process = _spawner.submit(
                subprocess.Popen,
                command.bound_argv(),
                cwd=command.cwd,
                env=dict(command.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                umask=PRIVATE,
            ).result()

    def is_ready(self) -> bool:
        """Tells whether the server answers.

        Raises:
            Unavailable: The process has ended; the error has the end of its log.
        """
        if not self.running:
            raise Unavailable(f"{self.name} {self.describe_exit()}")
        return self._answers()

    def start(self) -> None:
        """Starts the process and waits until the server answers.

        Raises:
            PreconditionFailed: As `launch`.
            Unavailable: It ended, or did not answer in time; the error has the end of its log.
        """
        self.launch()
        deadline = time.monotonic() + self.ready_timeout_s
        while not self.is_ready():
            if time.monotonic() > deadline:
                self.kill()
                raise Unavailable(self.describe_timeout())
            time.sleep(_POLL_S)

    def ask_to_stop(self) -> None:
        """Sends the stop signal and returns at once."""
        if self._process is not None and self.running:
            self._process.send_signal(self._stop_signal)

    def stop(self) -> None:
        """Sends the stop signal, and SIGKILL after the grace period and to what is left then."""
        if self._process is None:
            return
        self.ask_to_stop()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self.stop_grace_s)
        self._kill_group(self._process)

    def kill(self) -> None:
        """Sends SIGKILL to the process and those that it started, and waits for the end."""
        if self._process is not None:
            self._kill_group(self._process)

    @staticmethod
    def _kill_group(process: subprocess.Popen[bytes]) -> None:
        # The process leads a session of its own, whose number stays taken while one of it lives.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """Gives the last lines of the log."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def describe_exit(self) -> str:
        """Describes how the process ended, with the end of its log if it exited by itself."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "is not running"
        if code < 0:
            return f"was killed by {signal.Signals(-code).name}"
        return f"exited with {code}; the end of {self.log_file}:\n{self.log_tail()}"

    def refusal(self) -> str:
        """Gives the line of the log in which a server that ended says why it cannot start.

        Empty if it has not ended, or says nothing that another start would not change.
        """
        code = None if self._process is None else self._process.poll()
        if code is None or code <= 0:
            return ""
        said = self.log_file.read_bytes()[self._log_start :]
        lines = said.decode(errors="replace").splitlines()[-_LOOKED_AT_LINES:]
        full = (f"{self.name}: {line}" for line in reversed(lines) if _NO_ROOM in line)
        return lines[-1] if lines and _REFUSAL.search(lines[-1]) else next(full, "")

    def describe_timeout(self) -> str:
        """Describes that the server was not ready in time, with the end of its log."""
        return (
            f"{self.name} did not answer within {self.ready_timeout_s:g} s; "
            f"the end of {self.log_file}:\n{self.log_tail()}"
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
