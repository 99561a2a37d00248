"""A stream of faces to embed, with backpressure."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass
from typing import TypeAlias

from services.embedder.inference.requests import EmbeddedFace, EmbedResult
from shared.errors import MagFaceError, Unavailable, without_frames
from shared.model.image.face import FaceImage
from shared.rpc.budget import ByteBudget
from shared.rpc.streams import BudgetedRequests, ReadNext, responses_as_completed


@dataclass(frozen=True, slots=True)
class StreamedFace:
    """A face to embed.

    Attributes:
        id: Chosen by the caller.
        face: The picture, or the error found while it was unpacked.
        model_version: A loaded version; the serving one when empty.
    """

    id: str
    face: FaceImage | MagFaceError
    model_version: str = ""


@dataclass(frozen=True, slots=True)
class StreamedResult:
    """The result for one face.

    Attributes:
        id: Of the face.
        result: The embedding, or the error.
        model_version: The version that embedded it; empty with an error.
    """

    id: str
    result: EmbeddedFace | MagFaceError
    model_version: str = ""


Admit: TypeAlias = Callable[[FaceImage], AbstractAsyncContextManager[None]]
EmbedOne: TypeAlias = Callable[[FaceImage, str], Awaitable[EmbedResult]]


class FaceStream:
    """One stream; belongs to the loop's thread.

    Args:
        admit: Waits for the admission of one face, and holds it.
        embed: Embeds one admitted face with the named version.
        max_unanswered: Most faces that were read and whose results the caller has not taken.
        budget: Bytes that the pictures of all streams may take.
        stopping: Set when the server stops; the stream then reads no more faces.
    """

    def __init__(
        self,
        admit: Admit,
        embed: EmbedOne,
        max_unanswered: int,
        budget: ByteBudget,
        stopping: asyncio.Event,
    ) -> None:
        self._admit = admit
        self._embed = embed
        self._max_unanswered = max_unanswered
        self._budget = budget
        self._stopping = stopping

    async def results(self, faces: AsyncIterator[StreamedFace]) -> AsyncGenerator[StreamedResult]:
        """Give the result for each face, in the order in which they are ready.

        Raises:
            Unavailable: When the server stops, after the results for all faces that were read.
        """
        requests = BudgetedRequests(faces, _picture_bytes, self._budget)
        responses = responses_as_completed(
            requests, self._embed_face, self._max_unanswered, self._stopping
        )
        async with aclosing(responses) as groups:
            async for group in groups:
                for result in group:
                    yield result
        if self._stopping.is_set():
            raise Unavailable(
                "the server is stopping; send the images without an answer to another one"
            )

    async def _embed_face(self, face: StreamedFace, read_next: ReadNext) -> StreamedResult:
        try:
            if isinstance(face.face, MagFaceError):
                raise face.face
            async with self._admit(face.face):
                # A stream that waits for admission holds only one face that is not admitted.
                read_next()
                embedded = await self._embed(face.face, face.model_version)
        except MagFaceError as error:
            return StreamedResult(face.id, without_frames(error))
        return StreamedResult(face.id, embedded.faces[0], embedded.model_version)


def _picture_bytes(face: StreamedFace) -> int:
    return 0 if isinstance(face.face, MagFaceError) else len(face.face.data)
