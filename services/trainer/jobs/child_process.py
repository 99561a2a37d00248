"""Worker process of a job: start, messages, end."""

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

from services.trainer.worker.memory import MemoryLimit, speaks_of_memory
from services.trainer.worker.protocol import Assignment

logger = logging.getLogger(__name__)

_LINE_LIMIT_BYTES = 2**20
_STDERR_LINES = 15
_ENVIRONMENT = {
    # By default glibc returns each large tensor to the kernel, and page faults take a fifth of
    # the time of a training on the CPU.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "20000000000",
    # On shared cores, 16 images per processor second with spinning threads, 84 without.
    "OMP_WAIT_POLICY": "PASSIVE",
}


class WorkerProcess:
    """A running worker; made by `start_worker`.

    Threads read its pipes and end when the worker ends. asyncio's own pipes are not used, because
    event loops differ in who closes the file of a pipe that they did not open.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        threads: ThreadPoolExecutor,
        limit: MemoryLimit | None,
    ) -> None:
        self._limit = limit
        self._process = process
        self._threads = threads
        self._last_stderr: deque[str] = deque(maxlen=_STDERR_LINES)
        self._stderr_reader = asyncio.create_task(self._read_stderr())

    async def lines(self) -> AsyncIterator[bytes]:
        """Yield the lines that the worker writes to stdout, until it ends."""
        async for line in self._read(self._process.stdout):
            yield line

    async def describe_end(self) -> str:
        """Wait until the worker ends; describe its exit status and last stderr, for people."""
        await self._stderr_reader
        code = await asyncio.to_thread(self._process.wait)
        lines = "\n".join(self._last_stderr)
        # The log has all lines. Those of a traceback name paths.
        stderr = f"; its last output: {self._last_stderr[-1]}" if lines else ""
        if self._limit is not None and code != 0 and speaks_of_memory(lines):
            # A library ended the process where memory ran out.
            return f"{self._limit}{stderr}"
        if code >= 0:
            return f"the worker ended with exit status {code}{stderr}"
        hint = ", possibly because memory ran out" if -code == signal.SIGKILL else ""
        return f"the worker was ended by {signal.Signals(-code).name}{hint}{stderr}"

    async def kill(self) -> None:
        """Kill the worker and all processes it started; does nothing if it has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._stderr_reader
        await asyncio.to_thread(self._process.__exit__, None, None, None)

    async def _read_stderr(self) -> None:
        async for line in self._read(self._process.stderr):
            text = line.decode(errors="replace").rstrip()
            self._last_stderr.append(text)
            logger.info("worker %d: %s", self._process.pid, text)

    async def _read(self, pipe: IO[bytes] | None) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        while pipe and (
            line := await loop.run_in_executor(self._threads, pipe.readline, _LINE_LIMIT_BYTES)
        ):
            yield line


@asynccontextmanager
async def start_worker(
    command: Sequence[str], assignment: Assignment
) -> AsyncIterator[WorkerProcess]:
    """Start a worker and give it a job; at the end of the block it is killed.

    Args:
        command: Starts the worker, in a process group of its own.
        assignment: Its job.
    """
    with ThreadPoolExecutor(2, thread_name_prefix="worker-pipes") as threads:
        # uvloop's subprocesses fork, and gRPC's fork handlers then crash the new process. Popen
        # uses vfork, which runs no handlers. It is called on this thread, because the worker is
        # killed when the thread that started it ends.
        process = subprocess.Popen(  # noqa: ASYNC220
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            # torch makes this folder as it is imported, by default beside those of other programs.
            env=os.environ
            | _ENVIRONMENT
            | {"TORCHINDUCTOR_CACHE_DIR": str(assignment.workdir / "torchinductor")},
            start_new_session=True,
        )
        worker = WorkerProcess(process, threads, assignment.memory_limit)
        try:
            _send(process.stdin, assignment)
            yield worker
        finally:
            await worker.kill()


def _send(stdin: IO[bytes] | None, assignment: Assignment) -> None:
    if stdin is not None:
        # The exit status tells of a worker that has ended already.
        with suppress(BrokenPipeError):
            stdin.write(assignment.model_dump_json().encode() + b"\n")
            stdin.flush()
