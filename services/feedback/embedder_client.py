"""The embedder, as the pool needs it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
from magface.v1 import embedder_pb2 as pb
from magface.v1 import embedder_pb2_grpc
from numpy.typing import NDArray

from shared.model.faces import FaceImage
from shared.rpc.errors import domain_errors
from shared.rpc.faces import face_to_proto

IMAGES_A_CALL: Final = 32
_TIMEOUT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ServingModel:
    """The version that serves now."""

    model_version: str
    dimensions: int
    threshold: float


@dataclass(frozen=True, slots=True)
class Embedded:
    """What one version says of N faces.

    Attributes:
        embeddings: float32 [N, D], of unit length.
        qualities: float32 [N], 0..1.
    """

    model_version: str
    embeddings: NDArray[np.float32]
    qualities: NDArray[np.float32]


class EmbedderClient:
    """Asks an embedder; each call raises the domain's errors.

    Args:
        channel: From `shared.rpc.channel.open_channel`.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = embedder_pb2_grpc.EmbedderServiceStub(channel)

    async def model(self) -> ServingModel:
        with domain_errors():
            answer = await self._stub.GetModel(pb.GetModelRequest(), timeout=_TIMEOUT_S)
        return ServingModel(answer.model_version, answer.embedding_size, answer.threshold)

    async def embed(self, faces: Sequence[FaceImage]) -> Embedded:
        """Embed up to 32 faces.

        Raises:
            InvalidInput: If one of them cannot be used.
            PreconditionFailed: If a face has to be detected and there is no detector.
            Unavailable: If the embedder cannot answer; so is Overloaded.
        """
        request = pb.EmbedRequest(images=map(face_to_proto, faces))
        with domain_errors():
            answer = await self._stub.Embed(request, timeout=_TIMEOUT_S)
        rows = [np.frombuffer(face.embedding, "<f4") for face in answer.faces]
        return Embedded(
            answer.model_version,
            np.array(rows, np.float32),
            np.array([face.quality for face in answer.faces], np.float32),
        )
