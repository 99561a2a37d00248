"""Other servers as child processes, which are ready when they answer a request."""

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import grpc
import psutil

from deploy.local.child_process import ChildProcess, Command
from tests.benchmarks.serving.load.connections import EMBEDDING_BYTES, Address, connect_clients
from tests.benchmarks.serving.load.images import faces

_ROOT = Path(__file__).parents[4]


class OtherServer(ChildProcess):
    """A server with one of the protocols of `Address`.

    Args:
        address: The address that it listens on.
        argv: Its command line.
        environment: Variables to add to the environment of this process.
        folder: Its working folder, with its log; the name of the folder above is the server's.
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
    async with asyncio.timeout(5), connect_clients(address, 1) as clients:
        return await clients[0].embed(faces()[0])


@contextmanager
def running(server: OtherServer) -> Iterator[None]:
    """Run a server inside the block, then stop all processes that it started.

    Raises:
        Unavailable: It did not start; the message has the end of its log.
    """
    try:
        server.start()
        yield
    finally:
        children = _children(server.pid)
        server.stop()
        for process in children:
            if process.is_running():
                process.kill()


@contextmanager
def paused(server: OtherServer) -> Iterator[None]:
    """Suspend a server inside the block: some use a core even without requests."""
    assert server.pid is not None
    processes = [psutil.Process(server.pid), *_children(server.pid)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def _children(pid: int | None) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True) if pid else []
    except psutil.NoSuchProcess:
        return []
