"""Client of the embedder, with one or more replicas."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import grpc
import numpy as np
from magface.v1 import embedder_pb2 as pb
from magface.v1 import embedder_pb2_grpc
from numpy.typing import NDArray

from shared.model.image.face import FaceImage
from shared.rpc.channel import open_renewed_channel
from shared.rpc.converters import face_to_proto
from shared.rpc.errors import domain_errors
from shared.settings import ClientSettings

_DEADLINE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class ServingModel:
    """The serving version, as one replica reports it.

    Attributes:
        threshold: Of its decisions, at the operating point in force.
    """

    model_version: str
    dimensions: int
    threshold: float


@dataclass(frozen=True, slots=True)
class FaceEmbeddings:
    """Embeddings of N faces by one version.

    Attributes:
        embeddings: float32 [N, D], of unit length.
        magnitudes: float32 [N].
        qualities: float32 [N], 0..1.
    """

    model_version: str
    embeddings: NDArray[np.float32]
    magnitudes: NDArray[np.float32]
    qualities: NDArray[np.float32]


class EmbedderClient:
    """Calls the embedder.

    Calls are distributed over the healthy replicas of the channel's target. A call that a replica
    does not answer because it stops or dies is sent to another one; see `shared.rpc.channel`.

    Each method raises the domain's errors: `Unavailable` if no replica answers, `Overloaded` if
    the replica that was called is full. An overloaded call is not retried here.

    Args:
        channel: Gives the channel for the next call, from `open_embedder` or
            `shared.rpc.channel.open_channel`.
        deadline_s: Deadline of each call including its retries, in seconds.
    """

    def __init__(
        self, channel: Callable[[], grpc.aio.Channel], deadline_s: float = _DEADLINE_S
    ) -> None:
        self._channel = channel
        self._deadline_s = deadline_s

    async def model(self) -> ServingModel:
        """Read which version serves."""
        with domain_errors():
            answer = await self._stub().GetModel(pb.GetModelRequest(), timeout=self._deadline_s)
        return ServingModel(answer.model_version, answer.embedding_size, answer.threshold)

    async def embed(self, faces: Sequence[FaceImage], model_version: str = "") -> FaceEmbeddings:
        """Embed 1..64 faces, all with one version.

        Args:
            faces: N faces.
            model_version: A resident version; empty for the serving one.

        Raises:
            InvalidInput: If a face cannot be used; the error names it.
            PreconditionFailed: If the version is not resident, or a face must be detected and
                there is no detector.
        """
        request = pb.EmbedRequest(images=map(face_to_proto, faces), model_version=model_version)
        with domain_errors():
            answer = await self._stub().Embed(request, timeout=self._deadline_s)
        return FaceEmbeddings(
            answer.model_version,
            np.array([np.frombuffer(face.embedding, "<f4") for face in answer.faces], np.float32),
            np.array([face.magnitude for face in answer.faces], np.float32),
            np.array([face.quality for face in answer.faces], np.float32),
        )

    def _stub(self) -> "embedder_pb2_grpc.EmbedderServiceAsyncStub":
        stub: embedder_pb2_grpc.EmbedderServiceAsyncStub
        stub = embedder_pb2_grpc.EmbedderServiceStub(self._channel())
        return stub


@asynccontextmanager
async def open_embedder(
    address: str, access: ClientSettings | None = None, deadline_s: float = _DEADLINE_S
) -> AsyncIterator[EmbedderClient]:
    """Open a client for the duration of the block.

    Args:
        address: ``host:port``, or a gRPC target with several replicas, such as
            ``dns:///embedder:50051`` or ``ipv4:10.0.0.1:50051,10.0.0.2:50051``.
        access: Certificates and token, see `shared.rpc.channel.open_channel`.
        deadline_s: See `EmbedderClient`.
    """
    async with open_renewed_channel(address, access) as channel:
        yield EmbedderClient(channel.current, deadline_s)
