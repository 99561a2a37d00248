"""The pictures that wait for a decode process, and which of them is next."""

import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

from shared.decoding.cost import DecodeCost
from shared.decoding.messages import DecodeResult, Operation
from shared.decoding.processes import DecodeProcess
from shared.model.image.face import FaceImage

# Slow pictures have a process of low priority to themselves.
Lane = Literal["quick", "slow"]
DecodeOutcome: TypeAlias = DecodeResult | Exception
# A picture may wait so many times as long as its decoding takes before later ones are behind it.
_PATIENCE: Final = 10.0


@dataclass(eq=False, slots=True)
class DecodeTask:
    """One picture to work on.

    Attributes:
        operation: What to do.
        face: The picture.
        field: Path of the face in the call, for errors.
        deadline: By `time.monotonic`.
        done: Takes the outcome, on any thread; must not raise.
        cost: By its header.
        lane: In which it waits.
        cancelled: Whether its outcome is wanted no more.
        killed_at: When its process was first killed, by `time.monotonic`; None if none was.
        process: Works on it; None while it waits.
        due: By `time.monotonic`; the one that is due first is next.
    """

    operation: Operation
    face: FaceImage
    field: str
    deadline: float
    done: Callable[[DecodeOutcome], None]
    cost: DecodeCost
    lane: Lane
    cancelled: bool = False
    killed_at: float | None = None
    process: DecodeProcess | None = None
    due: float = 0.0


_Entry: TypeAlias = tuple[float, int, DecodeTask]


@dataclass(slots=True)
class _LaneState:
    max_pixels: int
    waiting: list[_Entry] = field(default_factory=list)
    pixels: int = 0  # that are being worked on


class DecodeQueue:
    """Pictures by lane; threads may share it.

    A picture is due after a multiple of the time that its call's pictures take up to it. So a small
    picture overtakes large ones and calls with many pictures, and each of those is next some time.

    Args:
        max_pixels: Pixels that are worked on in each lane at a time. A picture of more is worked
            on alone.
    """

    def __init__(self, max_pixels: dict[Lane, int]) -> None:
        self._lanes = {lane: _LaneState(pixels) for lane, pixels in max_pixels.items()}
        self._changed = threading.Condition(threading.Lock())
        self._numbers = itertools.count()
        self._taken = 0
        self._closed = False

    def put(self, tasks: Iterable[DecodeTask]) -> None:
        """Queue the pictures of one call."""
        due = time.monotonic()
        with self._changed:
            for task in tasks:
                due += _PATIENCE * task.cost.seconds
                task.due = due
                self._push(task)
            self._changed.notify_all()

    def put_back(self, task: DecodeTask, lane: Lane) -> None:
        """Queue a picture that `take` gave again."""
        with self._changed:
            self._release(task)
            task.lane = lane
            self._push(task)
            self._changed.notify_all()

    def take(self, lane: Lane) -> DecodeTask | None:
        """Wait for the next picture; None once the queue is closed and all pictures are finished.

        `finish` or `put_back` must follow.
        """
        state = self._lanes[lane]
        with self._changed:
            while True:
                while state.waiting and state.waiting[0][2].cancelled:
                    heapq.heappop(state.waiting)
                if state.waiting and self._fits(state, state.waiting[0][2]):
                    task = heapq.heappop(state.waiting)[2]
                    state.pixels += task.cost.pixels
                    self._taken += 1
                    return task
                if self._closed and not self._has_work():
                    return None
                self._changed.wait()

    def begin(self, task: DecodeTask, process: DecodeProcess) -> bool:
        """Note which process works on a task; False if it was cancelled."""
        with self._changed:
            task.process = process
            return not task.cancelled

    def finish(self, task: DecodeTask) -> bool:
        """Let others have the room of a task; False if it was cancelled."""
        with self._changed:
            self._release(task)
            self._changed.notify_all()
            return not task.cancelled

    def cancel(self, tasks: Iterable[DecodeTask]) -> None:
        """Drop tasks, and interrupt the processes that work on them; returns at once."""
        with self._changed:
            for task in tasks:
                task.cancelled = True
                if task.process is not None:
                    task.process.interrupt()
            for state in self._lanes.values():
                # Cancelled pictures must not stay in memory.
                state.waiting = [entry for entry in state.waiting if not entry[2].cancelled]
                heapq.heapify(state.waiting)
            self._changed.notify_all()

    def close(self) -> None:
        """Let `take` give what is queued, and then end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _push(self, task: DecodeTask) -> None:
        heapq.heappush(self._lanes[task.lane].waiting, (task.due, next(self._numbers), task))

    def _release(self, task: DecodeTask) -> None:
        task.process = None
        self._taken -= 1
        self._lanes[task.lane].pixels -= task.cost.pixels

    def _has_work(self) -> bool:
        # A picture that was taken from one lane may be put back into another.
        return self._taken > 0 or any(state.waiting for state in self._lanes.values())

    def _fits(self, state: _LaneState, task: DecodeTask) -> bool:
        return not state.pixels or state.pixels + task.cost.pixels <= state.max_pixels
