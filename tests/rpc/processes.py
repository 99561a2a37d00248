"""The echo service as a process that a test may end or freeze."""

import asyncio
import os
import signal
import socket
import sys
import time
from pathlib import Path


class EchoProcess:
    """The echo service as a process of its own; each call takes 50 ms."""

    def __init__(self, folder: Path, *, listen: str = "127.0.0.1:0") -> None:
        folder.mkdir()
        self._listen, self._endpoint, self._log = listen, folder / "endpoint", folder / "accepted"

    async def start(self) -> str:
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.rpc.echo", "0.05", str(self._log)),
            env=os.environ
            | {"MAGFACE_ENDPOINT_FILE": str(self._endpoint), "MAGFACE_LISTEN": self._listen},
        )
        return await asyncio.to_thread(self._bound_address)

    def _bound_address(self) -> str:
        deadline = time.monotonic() + 30
        while not self._endpoint.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return self._endpoint.read_text()

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        self.send(number)
        return await asyncio.wait_for(self._process.wait(), 20)

    def accepted(self) -> set[str]:
        return set(self._log.read_text().splitlines())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
