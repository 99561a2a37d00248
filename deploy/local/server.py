"""A server that runs as our child: started, watched, stopped, started again."""

import os
import signal
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from deploy.local.account import Account
from shared.errors import Unavailable

_TETHER = Path(__file__).with_name("tether.py")
_LOG_LIMIT_BYTES = 10 * 2**20
_POLL_S = 0.05

# The kernel ties a child to the thread that started it; this one lives as long as we do.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")


@dataclass(frozen=True)
class Command:
    """How to start a program.

    Attributes:
        argv: The program's full path and its arguments.
        env: Its whole environment.
        account: User to change to; None to stay who we are.
        death_signal: What it gets when we die without stopping it.
    """

    argv: Sequence[str]
    cwd: Path
    env: Mapping[str, str] = field(default_factory=dict)
    account: Account | None = None
    death_signal: signal.Signals = signal.SIGKILL

    def tethered(self) -> list[str]:
        """Gives the argument list that runs it tied to this process."""
        tether = [sys.executable, "-I", "-S", str(_TETHER), f"--parent={os.getpid()}"]
        tether.append(f"--signal={int(self.death_signal)}")
        if self.account is not None:
            tether += [f"--uid={self.account.uid}", f"--gid={self.account.gid}"]
            if self.account.capability is not None:
                tether.append(f"--capability={self.account.capability}")
        return [*tether, *self.argv]


class LocalServer(ABC):
    """One server process; a context manager that starts and stops it.

    It can be started again after `stop`, after `kill`, and after it died by itself.

    Args:
        name: For messages.
        log_file: Takes what the server prints; set aside above 10 MB.
        stop_signal: Asks the server to end.
        stop_grace_s: Seconds it gets to do so before it is killed.
        ready_timeout_s: Seconds from the start to the first answer.
    """

    def __init__(
        self,
        name: str,
        log_file: Path,
        *,
        stop_signal: signal.Signals = signal.SIGTERM,
        stop_grace_s: float = 10.0,
        ready_timeout_s: float = 60.0,
    ) -> None:
        self.name = name
        self.log_file = log_file
        self.ready_timeout_s = ready_timeout_s
        self.stop_grace_s = stop_grace_s
        self._stop_signal = stop_signal
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def _prepare(self) -> Command:
        """Puts in place what the server needs, and says how to start it."""

    @abstractmethod
    def _answers(self) -> bool:
        """Asks the server once, within about a second, whether it does its work."""

    @property
    def pid(self) -> int | None:
        """Process id; None when it has not been started."""
        return None if self._process is None else self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def launch(self) -> None:
        """Starts the process, and does not wait for it."""
        command = self._prepare()
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if self.log_file.exists() and self.log_file.stat().st_size > _LOG_LIMIT_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with self.log_file.open("ab") as log:
            self._process = _spawner.submit(
                subprocess.Popen,
                command.tethered(),
                cwd=command.cwd,
                env=dict(command.env),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ).result()

    def is_ready(self) -> bool:
        """Says whether it answers.

        Raises:
            Unavailable: It has ended; with the end of its log.
        """
        if not self.running:
            raise Unavailable(f"{self.name} {self.how_it_ended()}")
        return self._answers()

    def start(self) -> None:
        """Starts it and waits until it answers.

        Raises:
            Unavailable: It ended, or did not answer in time; with the end of its log.
        """
        self.launch()
        deadline = time.monotonic() + self.ready_timeout_s
        while not self.is_ready():
            if time.monotonic() > deadline:
                self.kill()
                raise Unavailable(self.how_it_kept_silent())
            time.sleep(_POLL_S)

    def ask_to_stop(self) -> None:
        """Sends the signal to end, and does not wait."""
        if self._process is not None and self.running:
            self._process.send_signal(self._stop_signal)

    def stop(self) -> None:
        """Ends it: asked first, killed when it takes too long."""
        if self._process is None:
            return
        self.ask_to_stop()
        try:
            self._process.wait(self.stop_grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """Ends it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def log_tail(self, lines: int = 15) -> str:
        """Gives the last lines of its log."""
        if not self.log_file.exists():
            return ""
        return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])

    def how_it_ended(self) -> str:
        """Says for a person how the process ended; with the end of its log if it gave up."""
        code = None if self._process is None else self._process.poll()
        if code is None:
            return "is not running"
        if code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"exited with {code}; the end of {self.log_file}:\n{self.log_tail()}"

    def how_it_kept_silent(self) -> str:
        """Says for a person that it did not get ready in time, with the end of its log."""
        return (
            f"{self.name} did not answer within {self.ready_timeout_s:g} s; "
            f"the end of {self.log_file}:\n{self.log_tail()}"
        )

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
