"""The images of a stream that have no answer yet."""

from typing import Final, Generic, TypeVar

from magface_client.calls import to_face
from magface_client.errors import from_number
from magface_client.results import Streamed
from magface_client.stubs import embedder_pb2, image_pb2

_Key = TypeVar("_Key")

_MOST_IMAGES: Final = 32
_MOST_BYTES: Final = 64 * 2**20


class StreamWindow(Generic[_Key]):
    """Requests that were sent and not answered; they are sent again if the stream breaks.

    Args:
        model_version: Of every request; empty for the serving version.
    """

    def __init__(self, model_version: str) -> None:
        self._model_version = model_version
        self._sent: dict[str, tuple[_Key, embedder_pb2.EmbedStreamRequest]] = {}
        self._bytes = 0
        self._count = 0

    @property
    def has_room(self) -> bool:
        """Whether another image may be sent."""
        return len(self._sent) < _MOST_IMAGES and self._bytes < _MOST_BYTES

    @property
    def unanswered(self) -> list[embedder_pb2.EmbedStreamRequest]:
        """The requests without an answer, oldest first."""
        return [request for _, request in self._sent.values()]

    def add(self, key: _Key, image: image_pb2.Image) -> embedder_pb2.EmbedStreamRequest:
        """Make the request for an image, and wait for its answer from now on."""
        self._count += 1
        request = embedder_pb2.EmbedStreamRequest(
            id=str(self._count), image=image, model_version=self._model_version
        )
        self._sent[request.id] = (key, request)
        self._bytes += len(image.data)
        return request

    def settle(self, response: embedder_pb2.EmbedStreamResponse) -> Streamed[_Key]:
        """Return the answer to an image, which is then no longer waited for."""
        key, request = self._sent.pop(response.id)
        self._bytes -= len(request.image.data)
        if response.HasField("error"):
            return Streamed(key, None, from_number(response.error.code, response.error.message))
        return Streamed(key, to_face(response.face, response.model_version), None)
