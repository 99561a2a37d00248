"""Images: checked on the way in, kept in the object store by their hash."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, ParamSpec, TypeVar

from services.feedback.settings import FeedbackSettings
from shared.errors import CorruptData, InvalidInput, NotFound, Unavailable
from shared.model.image.decode import decode_image
from shared.model.image.face import Alignment, FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits
from shared.storage.objects import ObjectStore, image_key


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What the database keeps about an image; its bytes are in the object store.

    Attributes:
        sha256: Of the bytes, 64 hex digits.
        landmarks: Five (x, y) points in pixels; empty unless the alignment is "landmarks".
        stored_at: None until it is stored.
    """

    sha256: str
    size_bytes: int
    media_type: str
    alignment: Alignment
    landmarks: tuple[tuple[float, float], ...]
    stored_at: datetime | None = None


_P = ParamSpec("_P")
_R = TypeVar("_R")

_SIGNATURES: Final = (
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"RIFF", "image/webp"),
    (b"BM", "image/bmp"),
)


@dataclass(frozen=True, slots=True)
class CheckedImage:
    facts: ImageFacts
    data: bytes


class ImageVault:
    """Checks pictures and moves their bytes, in a few threads of its own.

    Args:
        objects: Where the bytes are kept.
        limits: How large a picture may be.
        threads: How many pictures are worked on at a time.
        wait_s: Longest wait for one piece of work, its turn included, in seconds.
    """

    def __init__(
        self, objects: ObjectStore, limits: ImageLimits, threads: int, wait_s: float
    ) -> None:
        self._objects = objects
        self._limits = limits
        self._reader = FaceReader(limits)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._wait_s = wait_s

    async def check(self, face: FaceImage, field: str) -> CheckedImage:
        """Make sure that the network can be fed with a face, and hash it.

        One that has to be detected is decoded, but not searched: who uses it will.

        Args:
            face: What the caller sent.
            field: What the contract calls it, for the error.

        Raises:
            InvalidInput: If the picture, its alignment or its landmarks cannot be used.
            Unavailable: If it does not get its turn in time.
        """
        return await self._in_thread(self._check, face, field)

    async def put(self, image: CheckedImage) -> None:
        """Write an image's object, whether or not there is one.

        A fresh object tells a sweep of orphans that its row is still to come.

        Raises:
            Unavailable: If the object store cannot be reached in time.
        """
        await self._in_thread(self._objects.put, image_key(image.facts.sha256), image.data)

    async def get(self, sha256: str) -> bytes:
        """Read the bytes of an image whose facts are stored.

        Raises:
            CorruptData: If the object is gone or holds other bytes.
            Unavailable: If the object store cannot be reached in time.
        """
        try:
            return await self._in_thread(self._objects.get, image_key(sha256), sha256=sha256)
        except NotFound as error:
            raise CorruptData(f"image {sha256} has a row, but no object: {error}") from error

    async def remove(self, sha256: str) -> None:
        """Delete an image's object; one that is not there is deleted already.

        Raises:
            Unavailable: If the object store cannot be reached in time.
        """
        await self._in_thread(self._objects.remove, image_key(sha256))

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _in_thread(self, work: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        future = self._threads.submit(work, *args, **kwargs)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), self._wait_s)
        except TimeoutError:
            raise Unavailable(
                f"images were not dealt with within {self._wait_s:g} s; try again later"
            ) from None

    def _check(self, face: FaceImage, field: str) -> CheckedImage:
        if face.alignment == "detect":
            decode_image(face.data, self._limits, f"{field}.data")
            if face.landmarks:
                raise InvalidInput(
                    f"{field}.landmarks",
                    "are given, but the alignment is detect, which does not use them",
                )
        else:
            self._reader.crop(face, field)
        facts = ImageFacts(
            sha256=hashlib.sha256(face.data).hexdigest(),
            size_bytes=len(face.data),
            media_type=_media_type(face.data),
            alignment=_resolved(face),
            landmarks=face.landmarks,
        )
        return CheckedImage(facts, face.data)


def facts_from_row(
    row: tuple[bytes, int, str, Alignment, list[float] | None, datetime],
) -> ImageFacts:
    """Make the facts of a row that holds the columns of table images in their order."""
    sha256, size_bytes, media_type, alignment, numbers, stored_at = row
    landmarks = tuple(zip(numbers[::2], numbers[1::2], strict=True)) if numbers else ()
    return ImageFacts(sha256.hex(), size_bytes, media_type, alignment, landmarks, stored_at)


def _resolved(face: FaceImage) -> Alignment:
    """Say what an unspecified alignment was taken as, so that the same is the same."""
    if face.alignment != "unspecified":
        return face.alignment
    return "landmarks" if face.landmarks else "aligned"


def _media_type(data: bytes) -> str:
    return next(kind for signature, kind in _SIGNATURES if data.startswith(signature))


@contextmanager
def opened_vault(settings: FeedbackSettings, objects: ObjectStore) -> Iterator[ImageVault]:
    """A vault as the settings want it, until the end of the block."""
    vault = ImageVault(
        objects, settings, settings.feedback_image_threads, wait_s=3 * settings.s3_timeout_s
    )
    try:
        yield vault
    finally:
        vault.close()
