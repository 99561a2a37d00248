"""Supervisor of child processes: starts, restarts and stops them."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from deploy.local.child_process import ChildProcess
from shared.errors import MagFaceError, PreconditionFailed, Unavailable
from shared.runtime import backoff_s

_TICK_S = 0.1
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
# After a server has run this long, the next pause before a restart is short again.
_STEADY_S = 30.0
_TRIES_AT_START = 3
_TELL_EVERY_S = 5.0
_LOOK_EVERY_S = 5.0
_SILENT_LOOKS = 3
_LOOKS_AT_ONCE = 8


class StopRequested(Exception):
    """A stop was requested while servers were starting."""


@dataclass
class _Watched:
    server: ChildProcess
    started_at: float
    answered_at: float
    ready: bool = False
    failures: int = 0
    restart_at: float | None = None
    looked_at: float = 0.0
    look: "Future[bool] | None" = None
    silent_looks: int = 0
    answered_once: bool = False


class Supervisor:
    """Supervises servers from the calling thread.

    A server that ends is started again, and so is one that gives no answer for too long. The
    pauses before restarts grow up to ten seconds.

    Args:
        report: Receives a line of text about each start, end and restart.
        stop: When set, for instance by a signal handler, `bring_up` and `watch` end.
    """

    def __init__(self, report: Callable[[str], None], stop: threading.Event) -> None:
        self._report = report
        self._stop = stop
        self._groups: list[list[_Watched]] = []
        self._looks = ThreadPoolExecutor(_LOOKS_AT_ONCE, thread_name_prefix="looks")

    def bring_up(self, servers: Sequence[ChildProcess]) -> None:
        """Starts servers at the same time and waits until each is ready.

        Raises:
            PreconditionFailed: A server says that it cannot start.
            Unavailable: A server was not ready in time, or ended three times.
            StopRequested: `stop` was set.
        """
        group: list[_Watched] = []
        self._groups.append(group)
        for server in servers:
            server.launch()
            now = time.monotonic()
            group.append(_Watched(server, started_at=now, answered_at=now))
        told_at = time.monotonic()
        while not all(watched.ready for watched in group):
            self._tick()
            if time.monotonic() - told_at >= _TELL_EVERY_S:
                told_at = time.monotonic()
                self._tell_waiting(group)
            for watched in group:
                _raise_if_failed(watched)
            if self._stop.wait(_TICK_S):
                raise StopRequested

    def watch(self) -> None:
        """Restarts servers that end or give no answer, until `stop` is set."""
        while not self._stop.wait(_TICK_S):
            self._tick()

    def stop_all(self) -> None:
        """Stops all servers, in reverse order; those brought up together stop at the same time."""
        for group in reversed(self._groups):
            for watched in group:
                watched.server.ask_to_stop()
            for watched in group:
                watched.server.stop()
        self._groups.clear()
        self._looks.shutdown(wait=False)

    def _tick(self) -> None:
        for watched in itertools.chain.from_iterable(self._groups):
            if watched.restart_at is not None:
                self._restart_when_due(watched)
            elif not watched.server.running:
                if not watched.answered_once:
                    _raise_if_refused(watched.server)
                self._schedule_restart(watched, watched.server.describe_exit())
            else:
                if not watched.ready:
                    self._check_readiness(watched)
                if (limit_s := _silence_limit_s(watched)) is not None:
                    self._check_silence(watched, limit_s)

    def _tell_waiting(self, group: Sequence[_Watched]) -> None:
        for watched in group:
            if not watched.ready:
                seconds = time.monotonic() - watched.started_at
                server = watched.server
                self._report(f"{server.name} waits for {server.waits_for} ({seconds:.0f} s)")

    def _check_readiness(self, watched: _Watched) -> None:
        try:
            watched.ready = watched.server.is_ready()
        except Unavailable:
            return  # It has just ended; the next tick schedules a restart.
        if watched.ready:
            watched.answered_once = True
            seconds = time.monotonic() - watched.started_at
            self._report(f"{watched.server.name} is ready after {seconds:.1f} s")

    def _check_silence(self, watched: _Watched, silence_s: float) -> None:
        """Ask a server for an answer from time to time, and kill it after too long a silence."""
        now = time.monotonic()
        if watched.look is None:
            if now - watched.looked_at >= min(_LOOK_EVERY_S, silence_s / _SILENT_LOOKS):
                watched.looked_at = now
                watched.look = self._looks.submit(watched.server.is_alive)
            return
        if not watched.look.done():
            return
        if watched.look.result():
            watched.answered_at, watched.silent_looks = watched.looked_at, 0
        else:
            watched.silent_looks += 1
        watched.look = None
        # The clock alone does not count: this process may have been suspended.
        if watched.silent_looks >= _SILENT_LOOKS and now - watched.answered_at >= silence_s:
            watched.server.kill()
            self._schedule_restart(watched, f"gave no answer for {silence_s:g} s and was killed")

    def _schedule_restart(self, watched: _Watched, reason: str) -> None:
        if watched.ready and time.monotonic() - watched.started_at > _STEADY_S:
            watched.failures = 0
        watched.failures += 1
        pause = backoff_s(watched.failures, first_s=_FIRST_PAUSE_S, last_s=_LONGEST_PAUSE_S)
        watched.ready, watched.look, watched.silent_looks = False, None, 0
        watched.restart_at = time.monotonic() + pause
        self._report(f"{watched.server.name} {reason}")
        self._report(f"{watched.server.name} restarts in {pause:g} s")

    def _restart_when_due(self, watched: _Watched) -> None:
        if watched.restart_at is None or time.monotonic() < watched.restart_at:
            return
        watched.restart_at = None
        watched.started_at = watched.answered_at = time.monotonic()
        try:
            watched.server.launch()
        except (MagFaceError, OSError) as error:
            self._schedule_restart(watched, f"did not start: {error}")


def _silence_limit_s(watched: _Watched) -> float | None:
    """Give the longest silence of a server, which takes longer while it starts."""
    server = watched.server
    if server.silence_s is None:
        return None
    return server.silence_s if watched.ready else max(server.silence_s, server.ready_timeout_s)


def _raise_if_refused(server: ChildProcess) -> None:
    if refusal := server.refusal():
        raise PreconditionFailed(f"{refusal}; the log is {server.log_file}")


def _raise_if_failed(watched: _Watched) -> None:
    server = watched.server
    if watched.failures >= _TRIES_AT_START:
        raise Unavailable(f"{server.name} {server.describe_exit()}")
    if not watched.ready and time.monotonic() - watched.started_at > server.ready_timeout_s:
        raise Unavailable(server.describe_timeout())
