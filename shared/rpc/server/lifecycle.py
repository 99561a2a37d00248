"""Health and shutdown of a server."""

import asyncio

from grpc_health.v1.health import aio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from shared.rpc.budget import ByteBudget
from shared.rpc.server.interceptors import Context


class HealthServicer(aio.HealthServicer):  # type: ignore[misc]
    """Health service whose watches can be ended, because open watches delay a graceful stop."""

    def __init__(self) -> None:
        super().__init__()
        self._watches: set[asyncio.Task[None]] = set()

    async def Watch(self, request: HealthCheckRequest, context: Context) -> None:
        watch = asyncio.create_task(super().Watch(request, context))
        self._watches.add(watch)
        try:
            await watch
        except asyncio.CancelledError:
            if watch in self._watches:
                raise
        finally:
            self._watches.discard(watch)

    def end_watches(self) -> None:
        while self._watches:
            self._watches.pop().cancel()


class Lifecycle:
    """Health of one service; it is NOT_SERVING until `set_ready`.

    Attributes:
        stopping: Set when the server stops. Handlers of endless streams wait for it and return.
        stream_budget: Bytes that the requests of all streams may hold.
    """

    def __init__(self, service_name: str, stream_budget: ByteBudget) -> None:
        self._names = ("", service_name)
        self.stream_budget = stream_budget
        self.stopping = asyncio.Event()
        self.health = HealthServicer()

    async def set_ready(self, ready: bool) -> None:
        """Report SERVING or NOT_SERVING to health checks from now on."""
        serving = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.health.set(name, serving)

    async def begin_stop(self) -> None:
        """Report NOT_SERVING to health checks until the process ends."""
        await self.health.enter_graceful_shutdown()

    def end_streams(self) -> None:
        """End the streams that would otherwise last for the whole grace period of the server."""
        self.stopping.set()
        self.health.end_watches()
