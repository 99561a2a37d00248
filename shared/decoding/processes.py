"""Decode processes, as the service sees them."""

import os
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Final

from shared.decoding.fork_server import COMMAND, END, REPLY, START
from shared.decoding.messages import (
    DecodeAnswer,
    DecodeRequest,
    receive_answer,
    send_request,
)
from shared.errors import Unavailable
from shared.settings import ImageLimits

_START_TIMEOUT_S: Final = 60.0
_SINGLE_THREADED: Final = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
# So that the memory of a large picture returns to the system.
_MALLOC: Final = {"MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "16777216"}
# How long a picture may take on processors that are busy with other work, per second of its own.
_WALL_FACTOR: Final = 20.0
_MIN_POLL_S: Final = 0.02


class Stopped(Enum):
    """Why a process gave no answer.

    Attributes:
        CPU: It took all the processor time that it was given.
        DEADLINE: The deadline of the call passed.
        STALLED: It did not answer although it took little processor time.
        KILLED: Someone killed it, or memory ran out.
        CRASHED: The picture crashed it.
    """

    CPU = "cpu"
    DEADLINE = "deadline"
    STALLED = "stalled"
    KILLED = "killed"
    CRASHED = "crashed"


class DecodeProcess:
    """One decode process; belongs to one thread, except for `interrupt`.

    Args:
        connection: To the process.
        pid: Of the process.
        end: Kills the process, and gives its exit status; None if that is not known.
    """

    def __init__(self, connection: socket.socket, pid: int, end: Callable[[], int | None]) -> None:
        self.pid = pid
        self.started_at = time.monotonic()
        self._connection = connection
        self._kill = end
        self._clock = (~pid << 3) | 2  # clock_getcpuclockid(3)

    def run(self, request: DecodeRequest, cpu_s: float, deadline: float) -> DecodeAnswer | Stopped:
        """Let the process work; after anything but an answer it has ended.

        Args:
            request: The work.
            cpu_s: Processor time that it may take.
            deadline: By `time.monotonic`.
        """
        outcome: DecodeAnswer | Stopped | None
        try:
            cpu_end = self._cpu_s() + cpu_s
            send_request(self._connection, request)
            outcome = self._wait(cpu_end, deadline, time.monotonic() + cpu_s * _WALL_FACTOR)
            if outcome is None:
                return receive_answer(self._connection)
        except ValueError:
            outcome = Stopped.CRASHED
        except (EOFError, OSError):
            outcome = None
        status = self._end()
        if outcome is not None:
            return outcome
        # An end by SIGKILL is not the picture's fault, nor is one together with the fork server.
        return Stopped.KILLED if status is None or status in (-9, 0) else Stopped.CRASHED

    def interrupt(self) -> None:
        """Let `run` return at once; any thread may call it."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the process."""
        self._end()

    def _wait(self, cpu_end: float, deadline: float, wall_end: float) -> Stopped | None:
        """Wait until there is an answer; give the limit that was reached before."""
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        while True:
            now = time.monotonic()
            cpu_left = cpu_end - self._cpu_s()
            if cpu_left <= 0:
                return Stopped.CPU
            if now >= deadline:
                return Stopped.DEADLINE
            if now >= wall_end:
                return Stopped.STALLED
            wait_s = max(_MIN_POLL_S, min(cpu_left, deadline - now, wall_end - now))
            if poll.poll(wait_s * 1000):
                return None

    def _cpu_s(self) -> float:
        return time.clock_gettime(self._clock)

    def _end(self) -> int | None:
        self._connection.close()
        return self._kill()


@dataclass(slots=True)
class _RunningServer:
    process: subprocess.Popen[bytes]
    control: socket.socket


class ForkServer:
    """Starts decode processes; threads may share it.

    Its process starts with the first decode process, and again if it was killed.

    Args:
        limits: Of the pictures.
    """

    def __init__(self, limits: ImageLimits) -> None:
        fields = ImageLimits.model_fields
        self._limits = limits.model_dump_json(include=set(fields))
        self._lock = threading.Lock()
        self._running: _RunningServer | None = None

    def start(self, niceness: int) -> DecodeProcess:
        """Start a decode process.

        Args:
            niceness: Added to that of the service.

        Raises:
            Unavailable: If none can be started.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            try:
                pid = self._command(START, niceness, theirs)
            except (OSError, EOFError):
                # The process of the server was killed.
                self._stop()
                try:
                    pid = self._command(START, niceness, theirs)
                except (OSError, EOFError) as error:
                    ours.close()
                    self._stop()
                    raise Unavailable(
                        "no decode process can be started", detail=repr(error)
                    ) from error
            return DecodeProcess(ours, pid, partial(self._end, self._running, pid))

    def close(self) -> None:
        """End the process of the server, and with it the decode processes."""
        with self._lock:
            self._stop()

    def _end(self, origin: "_RunningServer | None", pid: int) -> int | None:
        """Kill a decode process, and give its exit status; None if its server has ended."""
        with self._lock:
            # Another server does not know the process, whose id may belong to any other one.
            if origin is not self._running or origin is None:
                return None
            try:
                return self._command(END, pid)
            except (OSError, EOFError):
                self._stop()
                return None

    def _command(
        self, command: bytes, argument: int, connection: socket.socket | None = None
    ) -> int:
        running = self._running or self._launch()
        message = COMMAND.pack(command, argument)
        descriptors = [connection.fileno()] if connection else []
        socket.send_fds(running.control, [message], descriptors)
        return _read_reply(running.control)

    def _launch(self) -> _RunningServer:
        ours, theirs = socket.socketpair()
        with theirs:
            # Popen uses vfork, which runs none of gRPC's fork handlers. In a session of its own
            # the process gets no signal that a terminal sends to the service.
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "shared.decoding.fork_server",
                    str(theirs.fileno()),
                    self._limits,
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=os.environ
                | _SINGLE_THREADED
                | _MALLOC
                | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,
            )
        self._running = _RunningServer(process, ours)
        ours.settimeout(_START_TIMEOUT_S)
        _read_reply(ours)
        return self._running

    def _stop(self) -> None:
        if self._running is not None:
            self._running.control.close()
            self._running.process.kill()
            self._running.process.wait()
            self._running = None


def _read_reply(control: socket.socket) -> int:
    reply = control.recv(REPLY.size, socket.MSG_WAITALL)
    if len(reply) < REPLY.size:
        raise EOFError("the fork server ended")
    number: int = REPLY.unpack(reply)[0]
    return number
