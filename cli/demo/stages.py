"""Where the time of a correction goes: from the request to train to a new version that serves."""

import time
from collections.abc import Callable
from typing import Any


class StageClock:
    """Adds up the seconds of each stage, by what a job says of itself.

    Args:
        now: Gives the time in seconds.
    """

    def __init__(self, now: Callable[[], float] = time.perf_counter) -> None:
        self._now = now
        self._stage = "waiting for a worker"
        self._since = now()
        self._seconds: dict[str, float] = {}

    def enter(self, message: str) -> None:
        """Begin the stage that a job's message tells of; the epochs of one are one stage."""
        stage = message.partition(", epoch")[0]
        if stage and stage != self._stage:
            self._end()
            self._stage = stage

    def stop(self) -> dict[str, Any]:
        """End the last stage.

        Returns:
            The seconds in all, and of each stage in the order they first began.
        """
        self._end()
        return {"seconds": sum(self._seconds.values()), "stages": dict(self._seconds)}

    def _end(self) -> None:
        now = self._now()
        self._seconds[self._stage] = self._seconds.get(self._stage, 0.0) + now - self._since
        self._since = now
