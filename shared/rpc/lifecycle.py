"""What a service tells its server, and what the server tells the service."""

import asyncio

from grpc_health.v1 import health
from grpc_health.v1.health_pb2 import HealthCheckResponse


class Lifecycle:
    """Health of one service, NOT_SERVING until it says that it is ready.

    Attributes:
        stopping: Set when the server begins to stop; endless streams end themselves then.
    """

    def __init__(self, service_name: str) -> None:
        self._names = ("", service_name)
        self.stopping = asyncio.Event()
        self.health = health.aio.HealthServicer()

    async def set_ready(self, ready: bool) -> None:
        """Answer health checks with SERVING or NOT_SERVING from now on."""
        serving = HealthCheckResponse.SERVING if ready else HealthCheckResponse.NOT_SERVING
        for name in self._names:
            await self.health.set(name, serving)

    async def begin_stop(self) -> None:
        """Answer health checks with NOT_SERVING for good and wake what waits for the end."""
        self.stopping.set()
        await self.health.enter_graceful_shutdown()
