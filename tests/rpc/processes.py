"""The echo service as a process that a test may end or freeze."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self


class EchoProcess:
    """The echo service as a process of its own; each call takes 50 ms. Killed with the block."""

    def __init__(self, folder: Path, *, listen: str = "127.0.0.1:0") -> None:
        folder.mkdir()
        self._process: asyncio.subprocess.Process | None = None
        self._listen, self._endpoint, self._log = listen, folder / "endpoint", folder / "accepted"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def start(self) -> str:
        await self._launch()
        await asyncio.to_thread(_wait, self._endpoint.exists)
        return self._endpoint.read_text()

    async def fail(self) -> tuple[int, str]:
        """Starts what cannot start; gives the exit status and the last words."""
        process = await self._launch(stderr=subprocess.PIPE)
        _, words = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode is not None
        return process.returncode, words.decode()

    async def _launch(self, stderr: int | None = None) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.rpc.echo", "0.05", str(self._log)),
            stderr=stderr,
            env=os.environ
            | {"MAGFACE_ENDPOINT_FILE": str(self._endpoint), "MAGFACE_LISTEN": self._listen},
        )
        return self._process

    async def is_called(self) -> None:
        """Waits for the next call."""
        before = len(self.accepted())
        await asyncio.to_thread(_wait, lambda: len(self.accepted()) > before)

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        self.send(number)
        assert self._process is not None
        return await asyncio.wait_for(self._process.wait(), 20)

    def accepted(self) -> set[str]:
        return set(self._log.read_text().splitlines())


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
