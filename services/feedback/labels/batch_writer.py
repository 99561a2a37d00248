"""Gathers labels that arrive at the same time into one transaction."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Self

from services.feedback.labels.label_log import LabelLog
from services.feedback.labels.types import SubmitResult, Submission
from shared.errors import MagFaceError, Overloaded, Unavailable


@dataclass(frozen=True, slots=True)
class _Waiting:
    submission: Submission
    answer: asyncio.Future[SubmitResult]


class BatchWriter:
    """Appends what waits whenever the transaction before has ended.

    There is no timer: alone, a label is stored at once, and batches grow with the load.

    Args:
        ledger: Where the labels go.
        batch: Labels in one transaction at most.
        queued: Labels that may wait.
        wait_s: Longest a transaction may take, and longest a label may wait for its turn,
            in seconds.
    """

    def __init__(self, ledger: LabelLog, batch: int, queued: int, wait_s: float) -> None:
        self._ledger = ledger
        self._batch = batch
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(queued)
        self._wait_s = wait_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run(), name="feedback-writer")
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def submit(self, submission: Submission) -> SubmitResult:
        """Store one label and wait until it is durable.

        Raises:
            Overloaded: If too many wait already.
            Unavailable: If it was not stored in time.
            MagFaceError: What the ledger refuses the submission with, or cannot store it for.
        """
        waiting = _Waiting(submission, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(waiting)
        except asyncio.QueueFull:
            raise Overloaded(
                f"{self._queue.maxsize} labels wait to be stored; send it again", 0.5
            ) from None
        try:
            return await asyncio.wait_for(waiting.answer, 2 * self._wait_s)
        except TimeoutError:
            raise Unavailable(
                f"the label was not stored within {2 * self._wait_s:g} s; send it again"
            ) from None

    async def _run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < self._batch and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            # Whoever has gone did not get an answer, and will send it again.
            await self._store([one for one in batch if not one.answer.done()])

    async def _store(self, batch: list[_Waiting]) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                outcomes = await self._ledger.append([one.submission for one in batch])
        except TimeoutError:
            _fail(batch, Unavailable(f"the database took longer than {self._wait_s:g} s"))
        except MagFaceError as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # Nobody may lose a label to another's: find the one that cannot be stored.
            for one in batch:
                await self._store([one])
        else:
            for one, outcome in zip(batch, outcomes, strict=True):
                if one.answer.done():
                    continue
                if isinstance(outcome, MagFaceError):
                    one.answer.set_exception(outcome)
                else:
                    one.answer.set_result(outcome)


def _fail(batch: list[_Waiting], error: Exception) -> None:
    for one in batch:
        if not one.answer.done():
            one.answer.set_exception(error)
