"""The process that does a job."""

import asyncio
import logging
import os
import signal
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from services.trainer.messages import Assignment

logger = logging.getLogger(__name__)

_LINE_LIMIT = 2**20
_LAST_WORDS = 15
# Without these a fifth of a training on the CPU goes into page faults: glibc gives every
# large tensor back to the kernel and faults it in again.
_ALLOCATOR = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "20000000000"}


class Child:
    """A worker at work; `start` makes one."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(cls, command: Sequence[str], assignment: Assignment) -> "Child":
        """Start a worker, in a process group of its own, and hand it its job."""
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env=os.environ | _ALLOCATOR,
            limit=_LINE_LIMIT,
            start_new_session=True,
        )
        child = cls(process)
        assert process.stdin is not None  # noqa: S101
        # A worker that is gone already says so by its exit status.
        process.stdin.write(assignment.model_dump_json().encode() + b"\n")
        return child

    async def lines(self) -> AsyncIterator[bytes]:
        """Give what it writes to stdout, line by line, until it ends."""
        assert self._process.stdout is not None  # noqa: S101
        async for line in self._process.stdout:
            yield line

    async def how_it_ended(self) -> str:
        """Wait for its end, and tell of it for a person to read."""
        code = await self._process.wait()
        await self._listening
        words = "\n".join(self._last_words)
        said = f"; its last words:\n{words}" if words else ""
        if code >= 0:
            return f"the worker ended with exit status {code}{said}"
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"the worker was ended by {signal.Signals(-code).name}{memory}{said}"

    async def kill(self) -> None:
        """End it and what it started, at once; does nothing when it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._listening

    async def _listen(self) -> None:
        assert self._process.stderr is not None  # noqa: S101
        async for line in self._process.stderr:
            text = line.decode(errors="replace").rstrip()
            self._last_words.append(text)
            logger.info("worker %d: %s", self._process.pid, text)
