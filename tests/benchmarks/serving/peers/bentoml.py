"""BentoML: a service that decodes images, in front of one with adaptive batching."""

import asyncio
from pathlib import Path
from typing import Annotated

import bentoml
import numpy as np
from bentoml.validators import ContentType

from tests.benchmarks.serving.peers.network import BATCH, Network, decode

TRAFFIC = {"timeout": 60}
# No server in the comparison logs its calls.
QUIET = {"access": {"enabled": False}}


@bentoml.service(traffic=TRAFFIC, logging=QUIET)
class Batched:
    def __init__(self) -> None:
        self.network = Network()

    @bentoml.api(batchable=True, max_batch_size=BATCH, max_latency_ms=60_000)
    def embed(self, crops: np.ndarray) -> np.ndarray:
        return self.network.embed(list(crops))


@bentoml.service(traffic=TRAFFIC, logging=QUIET)
class Faces:
    batched = bentoml.depends(Batched)

    @bentoml.api(route="/embed")
    async def embed(
        self, jpeg: Annotated[Path, ContentType("image/jpeg")], /
    ) -> Annotated[bytes, ContentType("application/octet-stream")]:
        crop = await asyncio.to_thread(lambda: decode(jpeg.read_bytes()))
        vectors = await self.batched.to_async.embed(crop[None])
        return np.asarray(vectors, np.float32).tobytes()
