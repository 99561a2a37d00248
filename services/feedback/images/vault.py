"""Image vault: checks images and stores their bytes in the object store by hash."""

import asyncio
import hashlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final, Self, TypeVar

from services.feedback.images.damaged import DamagedImages
from shared.decoding.admission import Admission
from shared.decoding.pool import DecodePool
from shared.errors import CorruptData, InvalidInput, NotFound, Unavailable
from shared.model.image.decoding.header import MEDIA_TYPES, reading_picture
from shared.model.image.decoding.signatures import picture_format
from shared.model.image.face import Alignment, Box, FaceImage
from shared.model.image.metadata.removal import strip_metadata
from shared.storage.objects import ObjectStore, image_key

logger = logging.getLogger(__name__)

_R = TypeVar("_R")

# For the delay after which a refused caller tries again.
_SECONDS_PER_IMAGE: Final = 0.02


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """A row of table `images`; the bytes are in the object store.

    Attributes:
        sha256: Of the bytes as they were sent, 64 hex digits; the name of the image.
        size_bytes: Of the object.
        landmarks: Five (x, y) points in pixels; empty unless the alignment is "landmarks".
        box: Chooses one of the faces; None unless the alignment is "detect".
        stored_at: None until it is stored.
        perceptual_hash: Of the picture, 32 bytes; None if it is read from the database.
        stored_sha256: Of the object, which has no metadata; None if an earlier release stored the
            bytes as they were sent.
    """

    sha256: str
    size_bytes: int
    media_type: str
    alignment: Alignment
    landmarks: tuple[tuple[float, float], ...]
    box: Box | None = None
    stored_at: datetime | None = None
    perceptual_hash: bytes | None = None
    stored_sha256: str | None = None

    def face(self, data: bytes) -> FaceImage:
        """Give the image as it was sent, without metadata, `on_several` and `on_no_face`.

        Args:
            data: Its bytes.
        """
        return FaceImage(data, self.alignment, self.landmarks, box=self.box)


@dataclass(frozen=True, slots=True)
class CheckedImage:
    """An image that passed `ImageVault.check`, with its bytes without metadata."""

    facts: ImageFacts
    data: bytes


class ImageVault:
    """Checks images, and reads and writes their objects in a thread pool of its own.

    A context manager: leaving it stops the threads.

    Args:
        objects: The bucket.
        pool: Decodes images; the caller starts and stops it.
        admission: Bounds the images that are checked at a time.
        threads: Objects that are read and written at a time.
        wait_s: Longest duration of one operation, in seconds. It includes the wait for a thread or
            a decode process, except for images of streams, which wait in turn.
        damaged: Images whose objects are known to be damaged; those that this reads are added.
    """

    def __init__(
        self,
        objects: ObjectStore,
        pool: DecodePool,
        admission: Admission,
        threads: int,
        *,
        wait_s: float,
        damaged: DamagedImages,
    ) -> None:
        self._objects = objects
        self._pool = pool
        self._admission = admission
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._wait_s = wait_s
        self.damaged = damaged

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def check(
        self, face: FaceImage, field: str, *, in_turn: bool = False, require_face: bool = False
    ) -> CheckedImage:
        """Check that a network could embed a face, hash its bytes, and remove its metadata.

        An image with alignment "detect" is decoded only; no face is detected here, unless one is
        required, or the image is to be refused if it shows several.

        Args:
            face: As the caller sent it.
            field: Name of the field in the contract, for the error.
            in_turn: Whether to wait until the image is admitted and has its turn.
            require_face: See `DecodePool.check`.

        Raises:
            InvalidInput: If the image, its alignment, landmarks or box cannot be used, it shows
                several faces and refuses that, or it shows none and one is required.
            PreconditionFailed: If faces must be detected and there is no detector.
            Overloaded: If there is no room for it now, and it does not wait.
            Unavailable: If it is not checked in time.
        """
        size, pixels = len(face.data), self._pool.decoded_pixels(face)
        if in_turn:
            async with self._admission.admit_in_turn(size, pixels):
                return await self._check(face, field, in_turn=True, require_face=require_face)
        with self._admission.admit(1, size, _SECONDS_PER_IMAGE, pixels):
            return await self._check(face, field, in_turn=False, require_face=require_face)

    async def put(self, image: CheckedImage, *, in_turn: bool = False) -> None:
        """Write an image's object, also if it exists.

        Writing again renews the object's time, so that the sweep of orphans leaves it alone
        until its row is added.

        Args:
            image: The image.
            in_turn: Whether to wait for a thread as long as it takes.

        Raises:
            Unavailable: If the object store does not answer in time.
        """
        key = image_key(image.facts.sha256)
        await self._in_thread(partial(self._objects.put, key, image.data), in_turn=in_turn)
        self.damaged.discard(image.facts.sha256)

    async def restore(
        self, image: CheckedImage, stored: ImageFacts, *, in_turn: bool = False
    ) -> bool:
        """Write the object of an image that has a row again, if it is missing or damaged.

        Args:
            image: The image.
            stored: Its row. The object of one that an earlier release stored with metadata is
                not written again.
            in_turn: Whether to wait for a thread as long as it takes.

        Returns:
            Whether it was written.

        Raises:
            Unavailable: If the object store does not answer in time.
        """
        if image.facts.stored_sha256 != (stored.stored_sha256 or stored.sha256):
            return False
        damaged = image.facts.sha256 in self.damaged
        has_object = partial(self._objects.has_content, image_key(image.facts.sha256), image.data)
        if not damaged and await self._in_thread(has_object, in_turn=in_turn):
            return False
        await self.put(image, in_turn=in_turn)
        logger.warning("image %s was missing or damaged and is restored", image.facts.sha256)
        return True

    async def get(self, facts: ImageFacts) -> bytes:
        """Read the bytes of an image that has a row, without metadata.

        Raises:
            CorruptData: If the object is missing or holds other bytes.
            Unavailable: If the object store does not answer in time.
        """
        sha256 = facts.sha256
        try:
            return await self._in_thread(partial(_read_stripped, self._objects, facts))
        except NotFound as error:
            self.damaged.add(sha256)
            raise CorruptData(f"image {sha256} has a row but no object") from error
        except CorruptData:
            self.damaged.add(sha256)
            raise

    async def holds(self, sha256: str) -> bool:
        """Say whether an image has an object, also without a row.

        Raises:
            Unavailable: If the object store does not answer in time.
        """
        return await self._in_thread(partial(self._objects.exists, image_key(sha256)))

    async def remove(self, sha256: str) -> None:
        """Delete an image's object, if it exists.

        Raises:
            Unavailable: If the object store does not answer in time.
        """
        await self._in_thread(partial(self._objects.remove, image_key(sha256)))
        self.damaged.discard(sha256)

    async def _in_thread(self, work: Callable[[], _R], *, in_turn: bool = False) -> _R:
        loop = asyncio.get_running_loop()
        started = asyncio.Event()

        def run() -> _R:
            loop.call_soon_threadsafe(started.set)
            return work()

        result = asyncio.wrap_future(self._threads.submit(run))
        # Also when the threads are stopped before they come to it.
        result.add_done_callback(lambda _: started.set())
        try:
            if in_turn:
                await started.wait()
            return await asyncio.wait_for(result, self._wait_s)
        except TimeoutError:
            raise self._late() from None
        finally:
            result.cancel()

    async def _check(
        self, face: FaceImage, field: str, *, in_turn: bool, require_face: bool
    ) -> CheckedImage:
        try:
            # The pool bounds the time of a picture from when a process has it.
            async with asyncio.timeout(None if in_turn else self._wait_s):
                perceptual = await self._pool.check(face, field, require_face=require_face)
        except TimeoutError:
            raise self._late() from None
        work = partial(_hash_and_strip, face.data, f"{field}.data")
        sha256, stored_sha256, data = await self._in_thread(work, in_turn=in_turn)
        facts = ImageFacts(
            sha256=sha256,
            size_bytes=len(data),
            media_type=MEDIA_TYPES[picture_format(face.data)],
            alignment=_resolved_alignment(face),
            landmarks=face.landmarks,
            box=face.box,
            perceptual_hash=perceptual,
            stored_sha256=stored_sha256,
        )
        return CheckedImage(facts, data)

    def _late(self) -> Unavailable:
        return Unavailable(f"an image was not processed within {self._wait_s:g} s; try again later")


def facts_from_row(
    row: tuple[
        bytes, int, str, Alignment, list[float] | None, list[float] | None, datetime, bytes | None
    ],
) -> ImageFacts:
    """Convert a row of the query of images."""
    sha256, size_bytes, media_type, alignment, numbers, sides, stored_at, stored_sha256 = row
    landmarks = tuple(zip(numbers[::2], numbers[1::2], strict=True)) if numbers else ()
    box = Box(*sides) if sides else None
    return ImageFacts(
        sha256.hex(),
        size_bytes,
        media_type,
        alignment,
        landmarks,
        box,
        stored_at,
        stored_sha256=stored_sha256.hex() if stored_sha256 else None,
    )


def _resolved_alignment(face: FaceImage) -> Alignment:
    """Replace "unspecified" by the alignment that it stands for."""
    if face.alignment != "unspecified":
        return face.alignment
    return "landmarks" if face.landmarks else "aligned"


def _hash_and_strip(data: bytes, field: str) -> tuple[str, str, bytes]:
    """Give the hash of an image as it was sent, and hash and bytes of it without metadata."""
    sha256 = _sha256(data)
    stripped = reading_picture(strip_metadata, field, data)
    return sha256, sha256 if stripped is data else _sha256(stripped), stripped


def _read_stripped(objects: ObjectStore, facts: ImageFacts) -> bytes:
    data = objects.get(image_key(facts.sha256), sha256=facts.stored_sha256 or facts.sha256)
    if facts.stored_sha256 is not None:
        return data
    try:
        return reading_picture(strip_metadata, "data", data)
    except InvalidInput as error:
        raise CorruptData(f"the metadata of image {facts.sha256} cannot be removed") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
