"""The process that does a job."""

import asyncio
import logging
import os
import signal
import subprocess
from collections import deque
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import IO

from services.trainer.worker.protocol import Assignment

logger = logging.getLogger(__name__)

_LINE_LIMIT = 2**20
_LAST_WORDS = 15
_ENVIRONMENT = {
    # Without these a fifth of a training on the CPU goes into page faults: glibc gives every
    # large tensor back to the kernel and faults it in again.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    # Spinning threads, on shared cores, trained 16 images a processor second; sleeping ones 84.
    "OMP_WAIT_POLICY": "PASSIVE",
}


class Child:
    """A worker at work; `at_work` makes one.

    Its pipes are read by threads of its own, which the death of the worker ends: event
    loops differ in who closes the file of a pipe that was not opened by them.
    """

    def __init__(self, process: subprocess.Popen[bytes], threads: ThreadPoolExecutor) -> None:
        self._process = process
        self._threads = threads
        self._last_words: deque[str] = deque(maxlen=_LAST_WORDS)
        self._listening = asyncio.create_task(self._listen())

    async def lines(self) -> AsyncIterator[bytes]:
        """Give what it writes to stdout, line by line, until it ends."""
        async for line in self._read(self._process.stdout):
            yield line

    async def how_it_ended(self) -> str:
        """Wait for its end, and tell of it for a person to read."""
        await self._listening
        code = await asyncio.to_thread(self._process.wait)
        words = "\n".join(self._last_words)
        said = f"; its last words:\n{words}" if words else ""
        if code >= 0:
            return f"the worker ended with exit status {code}{said}"
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"the worker was ended by {signal.Signals(-code).name}{memory}{said}"

    async def end(self) -> None:
        """Kill it with all it started; does nothing when it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._listening
        await asyncio.to_thread(self._process.__exit__, None, None, None)

    async def _listen(self) -> None:
        async for line in self._read(self._process.stderr):
            text = line.decode(errors="replace").rstrip()
            self._last_words.append(text)
            logger.info("worker %d: %s", self._process.pid, text)

    async def _read(self, pipe: IO[bytes] | None) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while pipe and (
            line := await loop.run_in_executor(self._threads, pipe.readline, _LINE_LIMIT)
        ):
            yield line


@asynccontextmanager
async def at_work(command: Sequence[str], assignment: Assignment) -> AsyncIterator[Child]:
    """Start a worker on its job; at the end of the block it is killed with all it started.

    Args:
        command: Starts the worker, in a process group of its own.
        assignment: Its job.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="worker-pipes") as threads:
        # Not by the event loop: uvloop forks, and gRPC's fork handlers crash the new process.
        # Popen uses vfork, which runs none. On this thread, since the worker dies with it.
        process = subprocess.Popen(  # noqa: ASYNC220
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=os.environ | _ENVIRONMENT,
            start_new_session=True,
        )
        child = Child(process, threads)
        try:
            _send(process.stdin, assignment)
            yield child
        finally:
            await child.end()


def _send(stdin: IO[bytes] | None, assignment: Assignment) -> None:
    if stdin is not None:
        # A worker that is gone already says so by its exit status.
        with suppress(BrokenPipeError):
            stdin.write(assignment.model_dump_json().encode() + b"\n")
            stdin.flush()
