"""Work on model versions on threads that may hang."""

import asyncio
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

from shared.errors import PreconditionFailed
from shared.model.sessions.base import Session
from shared.model.sessions.onnx import OnnxSession

_Result = TypeVar("_Result")
# Beside a thread of normal priority it gets about a tenth of a core.
_NICENESS: Final = 10
# Each may keep a network in memory and a processor busy.
_MOST_LEFT: Final = 4


class Hanging(PreconditionFailed):
    """The work on a version took too long."""


class Cancellation:
    """Tells work that nobody waits for any more to end; threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._end: Callable[[], None] = lambda: None

    def call_on_cancel(self, end: Callable[[], None]) -> None:
        """Have something called that ends the work, at once if the work is cancelled already."""
        with self._lock:
            self._end = end
            if self._cancelled:
                end()

    def ends_runs_of(self, session: Session) -> None:
        """Have the runs of a session end; those of torch go on, because nothing can end them."""
        if isinstance(session, OnnxSession):
            self.call_on_cancel(session.cancel)

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            self._end()


class VersionThreads:
    """Runs work on versions, each piece on a thread of its own.

    No thread can be ended from outside. One that nobody waits for any more is told to end and left
    alone. Until it ends, nothing else is done for its version; while four are left, nothing is
    done for any version.
    """

    def __init__(self) -> None:
        self._left: dict[str, threading.Thread] = {}

    async def run(
        self,
        version: str,
        work: Callable[[Cancellation], _Result],
        *,
        limit_s: float | None,
        low_priority: bool,
    ) -> _Result:
        """Do a piece of work, and return its result or raise its error.

        Args:
            version: The model version that it is for.
            work: The work. Blocks.
            limit_s: Its longest duration, in seconds; None for no limit.
            low_priority: Whether its thread has a low priority.

        Raises:
            Hanging: If it takes too long.
            PreconditionFailed: If earlier work on this version, or on four others, has not ended.
        """
        self._check(version)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[_Result] = loop.create_future()
        cancellation = Cancellation()

        def deliver(set_outcome: Callable[[], None]) -> None:
            if not outcome.done():
                set_outcome()

        def target() -> None:
            if low_priority:
                _lower_priority()
            try:
                done = partial(outcome.set_result, work(cancellation))
            except BaseException as error:
                done = partial(outcome.set_exception, error)
            # The loop is closed when the process ends.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(deliver, done)
            # An error holds this frame, which would keep it and what failed to load.
            del done

        thread = threading.Thread(target=target, name=f"load-{version}", daemon=True)
        thread.start()
        try:
            async with asyncio.timeout(limit_s):
                return await outcome
        except TimeoutError:
            raise Hanging(
                f"model version {version} took longer than {limit_s:g} s"
                " (MAGFACE_LOAD_TIMEOUT_S); promote another version"
            ) from None
        finally:
            if outcome.cancelled():
                self._left[version] = thread
                cancellation.cancel()

    def _check(self, version: str) -> None:
        self._left = {name: thread for name, thread in self._left.items() if thread.is_alive()}
        if version in self._left:
            raise PreconditionFailed(
                f"an earlier attempt to load model version {version} has not ended yet"
            )
        if len(self._left) >= _MOST_LEFT:
            raise PreconditionFailed(
                f"loading {', '.join(self._left)} has not ended yet; restart the embedder to load"
                " others"
            )


def _lower_priority() -> None:
    # Linux has a priority per thread; elsewhere the thread keeps the process's.
    with suppress(OSError):
        niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
