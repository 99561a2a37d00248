"""Supervisor of child processes: starts, restarts and stops them."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.local.child_process import ChildProcess
from shared.errors import MagFaceError, Unavailable
from shared.runtime import backoff_s

_TICK_S = 0.1
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
# After a server has run this long, the next pause before a restart is short again.
_STEADY_S = 30.0
_TRIES_AT_START = 3


class StopRequested(Exception):
    """A stop was requested while servers were starting."""


@dataclass
class _Watched:
    server: ChildProcess
    started_at: float
    ready: bool = False
    failures: int = 0
    restart_at: float | None = None


class Supervisor:
    """Supervises servers from the calling thread.

    Args:
        report: Receives a line of text about each start, end and restart.
        stop: When set, for instance by a signal handler, `bring_up` and `watch` end.
    """

    def __init__(self, report: Callable[[str], None], stop: threading.Event) -> None:
        self._report = report
        self._stop = stop
        self._groups: list[list[_Watched]] = []

    def bring_up(self, servers: Sequence[ChildProcess]) -> None:
        """Starts servers at the same time and waits until each is ready.

        Raises:
            Unavailable: A server was not ready in time, or ended three times.
            StopRequested: `stop` was set.
        """
        group: list[_Watched] = []
        self._groups.append(group)
        for server in servers:
            server.launch()
            group.append(_Watched(server, time.monotonic()))
        while not all(watched.ready for watched in group):
            self._tick()
            for watched in group:
                _raise_if_failed(watched)
            if self._stop.wait(_TICK_S):
                raise StopRequested

    def watch(self) -> None:
        """Restarts servers that end, until `stop` is set."""
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

    def _tick(self) -> None:
        for watched in itertools.chain.from_iterable(self._groups):
            if watched.restart_at is not None:
                self._restart_when_due(watched)
            elif not watched.server.running:
                self._schedule_restart(watched, watched.server.describe_exit())
            elif not watched.ready:
                self._check_readiness(watched)

    def _check_readiness(self, watched: _Watched) -> None:
        try:
            watched.ready = watched.server.is_ready()
        except Unavailable:
            return  # It has just ended; the next tick schedules a restart.
        if watched.ready:
            seconds = time.monotonic() - watched.started_at
            self._report(f"{watched.server.name} is ready after {seconds:.1f} s")

    def _schedule_restart(self, watched: _Watched, reason: str) -> None:
        if watched.ready and time.monotonic() - watched.started_at > _STEADY_S:
            watched.failures = 0
        watched.failures += 1
        pause = backoff_s(watched.failures, first_s=_FIRST_PAUSE_S, last_s=_LONGEST_PAUSE_S)
        watched.ready = False
        watched.restart_at = time.monotonic() + pause
        self._report(f"{watched.server.name} {reason}")
        self._report(f"{watched.server.name} restarts in {pause:g} s")

    def _restart_when_due(self, watched: _Watched) -> None:
        if watched.restart_at is None or time.monotonic() < watched.restart_at:
            return
        watched.restart_at = None
        watched.started_at = time.monotonic()
        try:
            watched.server.launch()
        except (MagFaceError, OSError) as error:
            self._schedule_restart(watched, f"did not start: {error}")


def _raise_if_failed(watched: _Watched) -> None:
    server = watched.server
    if watched.failures >= _TRIES_AT_START:
        raise Unavailable(f"{server.name} {server.describe_exit()}")
    if not watched.ready and time.monotonic() - watched.started_at > server.ready_timeout_s:
        raise Unavailable(server.describe_timeout())
