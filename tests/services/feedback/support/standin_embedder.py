"""Stand-in embedder over gRPC: a random projection, another one for each version."""

import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import cv2
import grpc
import numpy as np
from magface.v1 import embedder_pb2 as pb
from magface.v1 import embedder_pb2_grpc, image_pb2

DIMENSIONS = 16
THRESHOLD = 0.3


def embedding_of(data: bytes, version: str) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    small = cv2.resize(pixels, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float64).ravel()
    drawn = np.random.default_rng(zlib.crc32(version.encode()))
    raw = drawn.normal(size=(DIMENSIONS, small.size)) @ (small - 127.5)
    return np.asarray(raw / np.linalg.norm(raw), np.float32)


class StandInEmbedder(embedder_pb2_grpc.EmbedderServiceServicer):
    """Counts the images it embeds.

    Attributes:
        version: The serving version; may be changed at any time.
        swap_after: Number of images after which the version becomes `swap_to`.
        refused: Bytes of images that it refuses.
        stop_after: Number of images after which it is UNAVAILABLE.
        boxed: The images that it embedded and that have a box, by their bytes.
    """

    def __init__(self, version: str) -> None:
        self.version = version
        self.swap_after: int | None = None
        self.swap_to = ""
        self.stop_after: int | None = None
        self.refused: set[bytes] = set()
        self.embedded = 0
        self.boxed: dict[bytes, image_pb2.Image] = {}

    async def GetModel(  # noqa: N802
        self,
        request: pb.GetModelRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> pb.GetModelResponse:
        return pb.GetModelResponse(
            model_version=self.version, embedding_size=DIMENSIONS, threshold=THRESHOLD
        )

    async def Embed(  # noqa: N802
        self, request: pb.EmbedRequest, context: Any
    ) -> pb.EmbedResponse:
        if self.stop_after is not None and self.embedded >= self.stop_after:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "stopped")
        if any(image.data in self.refused for image in request.images):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "images[0].data: no face")
        self.embedded += len(request.images)
        self.boxed |= {image.data: image for image in request.images if image.HasField("box")}
        if self.swap_after is not None and self.embedded >= self.swap_after:
            self.version, self.swap_after = self.swap_to, None
        faces = [
            pb.FaceEmbedding(
                embedding=embedding_of(image.data, self.version).astype("<f4").tobytes(),
                magnitude=20.0,
                quality=0.5,
            )
            for image in request.images
        ]
        return pb.EmbedResponse(faces=faces, model_version=self.version)


@asynccontextmanager
async def served(embedder: StandInEmbedder) -> AsyncIterator[str]:
    """Serve an embedder on a free port inside the block; yields the address."""
    server = grpc.aio.server()
    embedder_pb2_grpc.add_EmbedderServiceServicer_to_server(embedder, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(0)
