"""Batch writer: stores labels that arrive at the same time in one transaction."""

import asyncio
from dataclasses import dataclass
from typing import Self

from services.feedback.labels.label_log import LabelLog
from services.feedback.labels.types import Submission, SubmitResult
from shared.errors import MagFaceError, Overloaded, Unavailable
from shared.runtime import end_task, repeat


@dataclass(frozen=True, slots=True)
class _QueuedLabel:
    submission: Submission
    result: asyncio.Future[SubmitResult]


class BatchWriter:
    """Appends all queued labels as soon as the previous transaction has ended.

    There is no timer: a single label is stored at once, and batches grow with the load.

    Args:
        log: Where the labels are appended.
        batch: Most labels of one transaction.
        queued: Most labels that may wait.
        wait_s: Longest duration of a transaction, and longest wait of a label for its turn unless
            it is of a stream, in seconds.
    """

    def __init__(self, log: LabelLog, batch: int, queued: int, wait_s: float) -> None:
        self._log = log
        self._batch = batch
        self._queue: asyncio.Queue[_QueuedLabel] = asyncio.Queue(queued)
        self._wait_s = wait_s
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(
            repeat("storing of labels", self._store_next, every_s=0), name="feedback-writer"
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._task is not None:
            await end_task(self._task)

    async def submit(self, submission: Submission, *, in_turn: bool = False) -> SubmitResult:
        """Store one label and wait until it is durable.

        Args:
            submission: The label.
            in_turn: Whether to wait for its transaction as long as it takes.

        Raises:
            Overloaded: If too many labels are queued.
            Unavailable: If it was not stored in time.
            MagFaceError: As `LabelLog.append` gives or raises.
        """
        queued = _QueuedLabel(submission, asyncio.get_running_loop().create_future())
        try:
            self._queue.put_nowait(queued)
        except asyncio.QueueFull:
            raise Overloaded(
                f"{self._queue.maxsize} labels wait to be stored; send it again", 0.5
            ) from None
        try:
            return await asyncio.wait_for(queued.result, None if in_turn else 2 * self._wait_s)
        except TimeoutError:
            raise Unavailable(
                f"the label was not stored within {2 * self._wait_s:g} s; send it again"
            ) from None

    async def _store_next(self) -> None:
        batch = [await self._queue.get()]
        while len(batch) < self._batch and not self._queue.empty():
            batch.append(self._queue.get_nowait())
        try:
            # A caller that gave up got no answer and will send its label again.
            await self._store([label for label in batch if not label.result.done()])
        except Exception as error:
            _fail(batch, error)
            raise

    async def _store(self, batch: list[_QueuedLabel]) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                outcomes = await self._log.append([label.submission for label in batch])
        except TimeoutError:
            _fail(batch, Unavailable(f"the database took longer than {self._wait_s:g} s"))
        except MagFaceError as error:
            _fail(batch, error)
        except Exception as error:
            if len(batch) == 1:
                _fail(batch, error)
                return
            # One label cannot be stored. Store each alone, so that the others are not lost.
            for label in batch:
                await self._store([label])
        else:
            for label, outcome in zip(batch, outcomes, strict=True):
                if label.result.done():
                    continue
                if isinstance(outcome, MagFaceError):
                    label.result.set_exception(outcome)
                else:
                    label.result.set_result(outcome)


def _fail(batch: list[_QueuedLabel], error: Exception) -> None:
    for label in batch:
        if not label.result.done():
            label.result.set_exception(error)
