"""Servers that are not ours, as child processes that are ready once they embed a picture."""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil

from deploy.local.child_process import ChildProcess, Command
from tests.benchmarks.serving.load.connections import EMBEDDING_BYTES, Address, targets
from tests.benchmarks.serving.load.images import faces

_ROOT = Path(__file__).parents[4]


class OtherServer(ChildProcess):
    """A program that speaks one of the protocols of `Address`.

    Args:
        address: Where it will listen.
        argv: How it is started.
        environment: Variables on top of ours.
        folder: It works and logs there; its parent's name is the server's.
    """

    def __init__(
        self, address: Address, argv: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        super().__init__(folder.parent.name, folder / "server.log", stop_grace_s=5.0)
        self.address, self.folder = address, folder
        self._argv, self._environment = list(argv), dict(environment)

    def _prepare(self) -> Command:
        self.folder.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join((str(_ROOT), str(_ROOT / "protos")))
        environment = {**os.environ, "PYTHONPATH": paths, **self._environment}
        return Command(argv=self._argv, cwd=self.folder, env=environment)

    def _answers(self) -> bool:
        try:
            return len(asyncio.run(_embed_once(self.address))) == EMBEDDING_BYTES
        except (OSError, RuntimeError, TimeoutError, grpc.aio.AioRpcError):
            return False


async def _embed_once(address: Address) -> bytes:
    async with asyncio.timeout(5), targets(address, 1) as callers:
        return await callers[0].embed(faces()[0])


@contextmanager
def running(server: OtherServer) -> Iterator[None]:
    """Run a server inside the block, and end all processes that it started.

    Raises:
        Unavailable: If it does not start; with the end of its log.
    """
    try:
        server.start()
        yield
    finally:
        family = _family(server.pid)
        server.stop()
        for process in family:
            if process.is_running():
                process.kill()


@contextmanager
def paused(server: OtherServer) -> Iterator[None]:
    """Keep a server from running inside the block: some take a core while nobody asks them."""
    assert server.pid is not None
    processes = [psutil.Process(server.pid), *_family(server.pid)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def _family(pid: int | None) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True) if pid else []
    except psutil.NoSuchProcess:
        return []
