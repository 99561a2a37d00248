"""Embeds an endless row of faces, no faster than they are taken."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TypeAlias

from services.embedder.inference.requests import Embedded, EmbeddedFace
from shared.errors import MagFaceError, Unavailable
from shared.model.image.face import FaceImage


@dataclass(frozen=True, slots=True)
class StreamedFace:
    """A face to embed.

    Attributes:
        id: Chosen by the caller.
        face: Or what is wrong with it already.
        model_version: A loaded version to ask; the one that serves when empty.
    """

    id: str
    face: FaceImage | MagFaceError
    model_version: str = ""


@dataclass(frozen=True, slots=True)
class StreamedAnswer:
    """What became of a face.

    Attributes:
        id: Of the face.
        outcome: The embedding, or why there is none.
        model_version: What embedded it; empty when nothing did.
    """

    id: str
    outcome: EmbeddedFace | MagFaceError
    model_version: str = ""


Admit: TypeAlias = Callable[[int], AbstractAsyncContextManager[None]]
EmbedOne: TypeAlias = Callable[[FaceImage, str], Awaitable[Embedded]]


class FaceStream:
    """One stream; belongs to the loop's thread.

    Args:
        admit: Waits for room for one face of so many bytes, and holds it.
        embed: Embeds one face that was admitted, with the version named.
        most: Faces that are read and whose answers are not yet taken.
        stopping: Set when the server stops: nothing is read any more then.
    """

    def __init__(self, admit: Admit, embed: EmbedOne, most: int, stopping: asyncio.Event) -> None:
        self._admit = admit
        self._embed = embed
        self._stopping = stopping
        self._slots = asyncio.Semaphore(most)
        self._running: set[asyncio.Task[None]] = set()
        # None after the last answer; an error that is not one face's ends the stream.
        self._answers: asyncio.Queue[StreamedAnswer | Exception | None] = asyncio.Queue()

    async def answers(self, faces: AsyncIterator[StreamedFace]) -> AsyncGenerator[StreamedAnswer]:
        """Give an answer to each face, in the order in which they are ready.

        Raises:
            Unavailable: When the server stops, after the answers to what was read.
        """
        reading = asyncio.create_task(self._read(faces))
        watching = asyncio.create_task(self._stop(reading))
        try:
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, Exception):
                    raise answer
                yield answer
                # Only now may another one be read: the caller has taken this one.
                self._slots.release()
        finally:
            await _cancel({reading, watching})
            await _cancel(self._running)
        if self._stopping.is_set():
            raise Unavailable("the server is stopping; send what was not answered to another one")

    async def _read(self, faces: AsyncIterator[StreamedFace]) -> None:
        try:
            while True:
                await self._slots.acquire()
                face = await anext(faces, None)
                if face is None:
                    break
                admitted = asyncio.Event()
                task = asyncio.create_task(self._answer(face, admitted))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
                # So a stream that waits holds one face in memory that was not admitted.
                await admitted.wait()
        except asyncio.CancelledError:
            if not self._stopping.is_set():
                raise
        except Exception as error:
            self._answers.put_nowait(error)
            return
        await asyncio.gather(*self._running)
        self._answers.put_nowait(None)

    async def _answer(self, face: StreamedFace, admitted: asyncio.Event) -> None:
        answer: StreamedAnswer | Exception
        try:
            if isinstance(face.face, MagFaceError):
                raise face.face
            async with self._admit(len(face.face.data)):
                admitted.set()
                embedded = await self._embed(face.face, face.model_version)
            answer = StreamedAnswer(face.id, embedded.faces[0], embedded.model_version)
        except MagFaceError as error:
            answer = StreamedAnswer(face.id, error)
        except Exception as error:
            answer = error
        admitted.set()
        self._answers.put_nowait(answer)

    async def _stop(self, reading: asyncio.Task[None]) -> None:
        await self._stopping.wait()
        reading.cancel()


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    waiting = list(tasks)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
