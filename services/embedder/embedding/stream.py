"""A stream of faces to embed, with backpressure."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias

from services.embedder.inference.requests import EmbeddedFace, EmbedResult
from shared.errors import MagFaceError, Unavailable
from shared.model.image.face import FaceImage


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


Admit: TypeAlias = Callable[[int], AbstractAsyncContextManager[None]]
EmbedOne: TypeAlias = Callable[[FaceImage, str], Awaitable[EmbedResult]]


class FaceStream:
    """One stream; belongs to the loop's thread.

    Args:
        admit: Waits for the admission of one face of so many bytes, and holds it.
        embed: Embeds one admitted face with the named version.
        max_unanswered: Most faces that were read and whose results the caller has not taken.
        stopping: Set when the server stops; the stream then reads no more faces.
    """

    def __init__(
        self, admit: Admit, embed: EmbedOne, max_unanswered: int, stopping: asyncio.Event
    ) -> None:
        self._admit = admit
        self._embed = embed
        self._stopping = stopping
        self._slots = asyncio.Semaphore(max_unanswered)
        self._running: set[asyncio.Task[None]] = set()
        # None marks the end; an exception that is not an error of one face ends the stream.
        self._results: asyncio.Queue[StreamedResult | Exception | None] = asyncio.Queue()

    async def results(self, faces: AsyncIterator[StreamedFace]) -> AsyncGenerator[StreamedResult]:
        """Give the result for each face, in the order in which they are ready.

        Raises:
            Unavailable: When the server stops, after the results for all faces that were read.
        """
        reading = asyncio.create_task(self._read(faces))
        watching = asyncio.create_task(self._stop(reading))
        try:
            while (result := await self._results.get()) is not None:
                if isinstance(result, Exception):
                    raise result
                yield result
                # After the yield, when the caller has taken the result.
                self._slots.release()
        finally:
            await _cancel({reading, watching})
            await _cancel(self._running)
        if self._stopping.is_set():
            raise Unavailable(
                "the server is stopping; send the images without an answer to another one"
            )

    async def _read(self, faces: AsyncIterator[StreamedFace]) -> None:
        try:
            while True:
                await self._slots.acquire()
                face = await anext(faces, None)
                if face is None:
                    break
                admitted = asyncio.Event()
                task = asyncio.create_task(self._embed_face(face, admitted))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                # A stream that waits for admission holds only one face that is not admitted.
                await admitted.wait()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
        except Exception as error:
            self._results.put_nowait(error)
            return
        await asyncio.gather(*self._running)
        self._results.put_nowait(None)

    async def _embed_face(self, face: StreamedFace, admitted: asyncio.Event) -> None:
        result: StreamedResult | Exception
        try:
            if isinstance(face.face, MagFaceError):
                raise face.face
            async with self._admit(len(face.face.data)):
                admitted.set()
                embedded = await self._embed(face.face, face.model_version)
            result = StreamedResult(face.id, embedded.faces[0], embedded.model_version)
        except MagFaceError as error:
            result = StreamedResult(face.id, error)
        except Exception as error:
            result = error
        admitted.set()
        self._results.put_nowait(result)

    async def _stop(self, reading: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        reading.cancel()


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    cancelled = list(tasks)
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
