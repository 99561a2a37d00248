"""Keeps servers running: starts them, restarts what dies, stops them in reverse."""

import itertools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from deploy.local.server import LocalServer
from shared.errors import MagFaceError, Unavailable

_TICK_S = 0.1
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 10.0
# A server that ran this long had recovered; the next pause is short again.
_STEADY_S = 30.0
_TRIES_AT_START = 3


class StopRequested(Exception):
    """Someone asked for the end while servers were still starting."""


@dataclass
class _Watched:
    server: LocalServer
    started_at: float
    ready: bool = False
    failures: int = 0
    restart_at: float | None = None


class Supervisor:
    """Watches over servers, all from the one thread that calls it.

    Args:
        report: Gets a line for a person about each start, death and return.
        stop: Set, from a signal handler for instance, to end `bring_up` and `watch`.
    """

    def __init__(self, report: Callable[[str], None], stop: threading.Event) -> None:
        self._report = report
        self._stop = stop
        self._groups: list[list[_Watched]] = []

    def bring_up(self, servers: Sequence[LocalServer]) -> None:
        """Starts servers side by side, and waits until each is ready.

        Raises:
            Unavailable: One did not get ready in time, or kept ending.
            StopRequested: `stop` was set meanwhile.
        """
        group: list[_Watched] = []
        self._groups.append(group)
        for server in servers:
            server.launch()
            group.append(_Watched(server, time.monotonic()))
        while not all(watched.ready for watched in group):
            self._tick()
            for watched in group:
                _give_up_if_hopeless(watched)
            if self._stop.wait(_TICK_S):
                raise StopRequested

    def watch(self) -> None:
        """Restarts whatever ends, until `stop` is set."""
        while not self._stop.wait(_TICK_S):
            self._tick()

    def stop_all(self) -> None:
        """Ends all servers, the last brought up first; those brought up together at once."""
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
                self._plan_restart(watched, watched.server.how_it_ended())
            elif not watched.ready:
                self._see_whether_ready(watched)

    def _see_whether_ready(self, watched: _Watched) -> None:
        try:
            watched.ready = watched.server.is_ready()
        except Unavailable:
            return  # It has just ended; the next tick plans its restart.
        if watched.ready:
            seconds = time.monotonic() - watched.started_at
            self._report(f"{watched.server.name} is ready after {seconds:.1f} s")

    def _plan_restart(self, watched: _Watched, why: str) -> None:
        if watched.ready and time.monotonic() - watched.started_at > _STEADY_S:
            watched.failures = 0
        pause = min(_FIRST_PAUSE_S * 2**watched.failures, _LONGEST_PAUSE_S)
        watched.failures += 1
        watched.ready = False
        watched.restart_at = time.monotonic() + pause
        self._report(f"{watched.server.name} {why}")
        self._report(f"{watched.server.name} is started again in {pause:g} s")

    def _restart_when_due(self, watched: _Watched) -> None:
        if watched.restart_at is None or time.monotonic() < watched.restart_at:
            return
        watched.restart_at = None
        watched.started_at = time.monotonic()
        try:
            watched.server.launch()
        except (MagFaceError, OSError) as error:
            self._plan_restart(watched, f"cannot be started: {error}")


def _give_up_if_hopeless(watched: _Watched) -> None:
    server = watched.server
    if watched.failures >= _TRIES_AT_START:
        raise Unavailable(f"{server.name} {server.how_it_ended()}")
    if not watched.ready and time.monotonic() - watched.started_at > server.ready_timeout_s:
        raise Unavailable(server.how_it_kept_silent())
