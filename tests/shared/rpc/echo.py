"""A service with one method of each kind (unary and stream), whose behaviour a test sets.

Run as a program it serves until SIGTERM: ``python -m tests.shared.rpc.echo SECONDS LOG``; each call
takes SECONDS and is written to LOG when it is accepted.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc

from shared.rpc.server.lifecycle import Lifecycle
from shared.rpc.server.runner import Build, run_server
from shared.settings import ServerSettings
from tests.support.processes import ServiceProcess
from tests.support.waiting import until

SERVICE = "magface.test.Echo"
KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
# A method of the contract that channels retry; it does the same as unary_unary.
REPEATABLE = "/magface.v1.FeedbackService/GetStats"
LOCAL = ServerSettings(listen="127.0.0.1:0", stop_grace_s=5.0)

Act = Callable[[bytes], Awaitable[bytes]]


def echo(act: Act, *, ready: bool = True, closed: Callable[[], None] = lambda: None) -> Build:
    """Build the service: ``act`` handles each request, each result of it is a response."""

    @asynccontextmanager
    async def build(server: grpc.aio.Server, lifecycle: Lifecycle) -> AsyncIterator[None]:
        server.add_generic_rpc_handlers(_handlers(act))
        if ready:
            await lifecycle.set_ready(True)
        yield
        closed()

    return build


def _handlers(act: Act) -> list[grpc.GenericRpcHandler]:
    async def unary_unary(request: bytes, _: Any) -> bytes:
        return await act(request)

    async def unary_stream(request: bytes, _: Any) -> AsyncIterator[bytes]:
        for part in request.split(b","):
            yield await act(part)

    async def stream_unary(requests: AsyncIterator[bytes], _: Any) -> bytes:
        return b",".join([await act(request) async for request in requests])

    async def stream_stream(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        async for request in requests:
            yield await act(request)

    behaviours = (unary_unary, unary_stream, stream_unary, stream_stream)
    methods = {
        kind: getattr(grpc, f"{kind}_rpc_method_handler")(behaviour)
        for kind, behaviour in zip(KINDS, behaviours, strict=True)
    }
    service, _, name = REPEATABLE.removeprefix("/").partition("/")
    return [
        grpc.method_handlers_generic_handler(SERVICE, methods),
        grpc.method_handlers_generic_handler(service, {name: methods["unary_unary"]}),
    ]


async def call(channel: grpc.aio.Channel, kind: str, *requests: bytes, wait_s: float = 20) -> Any:
    """Call the method of a kind; return its responses, and raise an error after them."""
    method = getattr(channel, kind)(f"/{SERVICE}/{kind}")
    request = requests if kind.startswith("stream") else b",".join(requests)
    if kind.endswith("unary"):
        return [await method(request, timeout=wait_s)]
    return [answer async for answer in method(request, timeout=wait_s)]


class EchoProcess(ServiceProcess):
    """The service in a process; each call takes 50 ms.

    Args:
        folder: For its files.
        listen: Its address.
        settings: Further variables of its environment.
    """

    def __init__(self, folder: Path, *, listen: str = "127.0.0.1:0", **settings: str) -> None:
        self._accepted = folder / "accepted"
        arguments = ("0.05", str(self._accepted))
        environment = {"MAGFACE_LISTEN": listen, **settings}
        super().__init__("tests.shared.rpc.echo", folder, environment, arguments)

    def accepted(self) -> set[str]:
        """The requests that the service has accepted."""
        return set(self._accepted.read_text().splitlines())

    async def accepts(self, count: int = 1) -> None:
        """Wait until the service has accepted that many more calls."""
        before = len(self.accepted())
        await until(lambda: len(self.accepted()) >= before + count)


def _main() -> None:
    seconds, log = float(sys.argv[1]), Path(sys.argv[2])
    with log.open("ab", buffering=0) as accepted:

        async def act(request: bytes) -> bytes:
            accepted.write(request + b"\n")
            await asyncio.sleep(seconds)
            return request

        run_server(ServerSettings(), SERVICE, echo(act))


if __name__ == "__main__":
    _main()
