"""Hands over in one piece what a busy loop gets in one go."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from services.embedder.inference.requests import Work

# A turn of the loop that took less had nothing else to do.
_IDLE_TURN_S: Final = 30e-6
# So many of them one after the other, a fifth of a millisecond, and the burst is over.
_IDLE_TURNS: Final = 40
# What a hand-over costs is nothing beside so many pieces of work.
_MOST: Final = 32
_LONGEST_S: Final = 8e-3


class Burst:
    """Gathers work while the loop is busy taking in more of it; belongs to the loop's thread.

    Each hand-over wakes another thread, which takes the interpreter's lock from the loop: with
    a network that costs little, more time would go there than into the work. Where work comes
    singly, time after time, it is handed over at the loop's next turn.

    Args:
        then: Takes what was gathered.
    """

    def __init__(self, then: Callable[[list[Work]], None]) -> None:
        self._then = then
        self._works: list[Work] = []
        self._patience = 1
        self._idle_turns = 0
        self._turned = self._until = 0.0

    def add(self, work: Work) -> None:
        self._works.append(work)
        if len(self._works) == 1:
            self._idle_turns = 0
            self._turned = time.perf_counter()
            self._until = self._turned + _LONGEST_S
            asyncio.get_running_loop().call_soon(self._turn)

    def _turn(self) -> None:
        turned, self._turned = self._turned, time.perf_counter()
        idle = self._turned - turned < _IDLE_TURN_S
        self._idle_turns = self._idle_turns + 1 if idle else 0
        if self._is_over():
            self._patience = _IDLE_TURNS if len(self._works) > 1 else max(1, self._patience // 2)
            works, self._works = self._works, []
            self._then(works)
        else:
            asyncio.get_running_loop().call_soon(self._turn)

    def _is_over(self) -> bool:
        return (
            self._idle_turns >= self._patience
            or self._turned > self._until
            or len(self._works) >= _MOST
        )
