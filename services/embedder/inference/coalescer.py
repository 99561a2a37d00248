"""Request coalescing: one hand-over to the batcher for requests that arrive in a burst."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from services.embedder.inference.requests import InferenceRequest

# In a turn of the loop that is shorter, no other callback did any work.
_IDLE_TURN_S: Final = 30e-6
# A burst is over after so many idle turns in a row, which take a fifth of a millisecond.
_BURST_IDLE_TURNS: Final = 40
# The cost of a hand-over is negligible beside so many requests.
_MAX_REQUESTS: Final = 32
_MAX_DELAY_S: Final = 8e-3


class Coalescer:
    """Collects requests while the loop is busy with accepting more; belongs to the loop's thread.

    Each hand-over wakes another thread, which takes the interpreter's lock from the loop. With a
    cheap network that would cost more time than the requests themselves. When requests arrive one
    at a time, the coalescer adapts and hands each over at the loop's next turn.

    Args:
        flush: Takes the collected requests.
    """

    def __init__(self, flush: Callable[[list[InferenceRequest]], None]) -> None:
        self._flush = flush
        self._requests: list[InferenceRequest] = []
        # Idle turns in a row that end the collection; 1 when requests arrive one at a time.
        self._wanted_idle_turns = 1
        self._idle_turns = 0
        self._last_turn_at = self._flush_at = 0.0

    def add(self, request: InferenceRequest) -> None:
        self._requests.append(request)
        if len(self._requests) == 1:
            self._idle_turns = 0
            self._last_turn_at = time.perf_counter()
            self._flush_at = self._last_turn_at + _MAX_DELAY_S
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        before, self._last_turn_at = self._last_turn_at, time.perf_counter()
        idle = self._last_turn_at - before < _IDLE_TURN_S
        self._idle_turns = self._idle_turns + 1 if idle else 0
        if not self._is_complete():
            asyncio.get_running_loop().call_soon(self._turn)
            return
        if len(self._requests) > 1:
            self._wanted_idle_turns = _BURST_IDLE_TURNS
        else:
            self._wanted_idle_turns = max(1, self._wanted_idle_turns // 2)
        requests, self._requests = self._requests, []
        self._flush(requests)

    def _is_complete(self) -> bool:
        return (
            self._idle_turns >= self._wanted_idle_turns
            or self._last_turn_at > self._flush_at
            or len(self._requests) >= _MAX_REQUESTS
        )
