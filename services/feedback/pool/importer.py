"""Pool importer: stores images without labels, for pairs to be selected from."""

import asyncio
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from psycopg import AsyncConnection

from services.feedback.images.subjects import NamedImage, add_subjects
from services.feedback.images.tombstones import Tombstones, read_tombstones
from services.feedback.images.upload_fence import begin_upload, require_epoch
from services.feedback.images.vault import CheckedImage, ImageFacts, ImageVault, facts_from_row
from services.feedback.labels import consensus_view
from services.feedback.labels import queries as label_queries
from services.feedback.labels.idempotency import check_alignment
from services.feedback.labels.label_log import image_columns
from services.feedback.pool import queries
from shared.errors import Conflict, MagFaceError, Unavailable, without_frames
from shared.model.image.face import FaceImage
from shared.model.image.perceptual_hash import HASH_BYTES, NEAR_DUPLICATE_BITS, near_duplicates
from shared.rpc.budget import HeldBytes
from shared.rpc.streams import BudgetedRequests
from shared.storage.postgres import Pool, transaction

_CHUNK_IMAGES: Final = 64
_CHUNK_BYTES: Final = 32 * 2**20
_MOST_LISTED: Final = 1000
_MOST_NAMES: Final = 10
_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class PoolImage:
    """An image as a caller sends it.

    Attributes:
        face: The image, or the error that it or its identity was rejected with.
        identity: The person on it; empty if unknown.
    """

    face: FaceImage | MagFaceError
    identity: str = ""


@dataclass(frozen=True, slots=True)
class ImageRejection:
    """A rejected image.

    Attributes:
        position: In the stream, from 0.
        reason: Why it was rejected.
    """

    position: int
    reason: str


@dataclass(frozen=True, slots=True)
class OtherNames:
    """An image that has other names beside the one sent.

    Attributes:
        position: In the stream, from 0.
        names: At most 10 of them.
    """

    position: int
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NearDuplicate:
    """A new image that is near-identical to another one.

    Attributes:
        position: In the stream, from 0.
        sha256: The other image, stored before or earlier in the stream.
    """

    position: int
    sha256: str


@dataclass
class ImportResult:
    """Outcome of a stream of images.

    Attributes:
        created: Images stored by this call.
        known: Images that were stored before, or came earlier in the stream.
        rejected: Images that were rejected.
        rejections: The first 1,000 rejected images.
        named_otherwise: Images that have another name beside the one sent.
        other_names: The first 1,000 of them.
        near_identical: New images that are near-identical to another one.
        near_duplicates: The first 1,000 of them.
    """

    created: int = 0
    known: int = 0
    rejected: int = 0
    rejections: list[ImageRejection] = field(default_factory=list)
    named_otherwise: int = 0
    other_names: list[OtherNames] = field(default_factory=list)
    near_identical: int = 0
    near_duplicates: list[NearDuplicate] = field(default_factory=list)

    def reject(self, position: int, reason: str) -> None:
        self.rejected += 1
        if len(self.rejections) < _MOST_LISTED:
            self.rejections.append(ImageRejection(position, reason))

    def add_other_names(self, position: int, names: Sequence[str]) -> None:
        self.named_otherwise += 1
        if len(self.other_names) < _MOST_LISTED:
            self.other_names.append(OtherNames(position, tuple(names[:_MOST_NAMES])))

    def add_near_duplicate(self, position: int, sha256: str) -> None:
        self.near_identical += 1
        if len(self.near_duplicates) < _MOST_LISTED:
            self.near_duplicates.append(NearDuplicate(position, sha256))


@dataclass(frozen=True, slots=True)
class _ChunkImage:
    """An image of a chunk.

    Attributes:
        identities: The name that came with each message of these bytes, by its position; empty
            if unknown.
    """

    image: CheckedImage
    identities: dict[int, str]


# The images of a chunk, by hex SHA-256.
_Chunk = Mapping[str, _ChunkImage]


class PoolImporter:
    """Stores images chunk by chunk: first their objects, then their rows.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Checks images and stores their bytes. With a vault of its own, an import does not
            take threads from single labels.
    """

    def __init__(self, pool: Pool, vault: ImageVault) -> None:
        self._pool = pool
        self._vault = vault

    async def import_images(self, images: BudgetedRequests[PoolImage]) -> ImportResult:
        """Store a stream of images, with at most one chunk of it in memory.

        A chunk ends where the next image would wait for the bytes that other streams hold, so
        that no stream waits for another while it holds images.

        An image that cannot be used is rejected; the import continues with the others.

        Raises:
            Unavailable: If a store does not answer. The previous chunks are stored, and the same
                stream may be sent again.
        """
        result = ImportResult()
        first = 0
        while True:
            chunk = await _read_chunk(images)
            if not chunk:
                return result
            try:
                await self._import_chunk([image for image, _ in chunk], first, result)
            finally:
                for _, held in chunk:
                    held.resize(0)
            first += len(chunk)
            # While the stream waits for the next image it holds none.
            del chunk

    async def _import_chunk(
        self, images: Sequence[PoolImage], first: int, result: ImportResult
    ) -> None:
        outcomes = await asyncio.gather(*map(self._check, images))
        chunk: dict[str, _ChunkImage] = {}
        for position, (sent, outcome) in enumerate(zip(images, outcomes, strict=True), first):
            if isinstance(outcome, MagFaceError):
                result.reject(position, str(outcome))
                continue
            same = chunk.setdefault(outcome.facts.sha256, _ChunkImage(outcome, {}))
            same.identities[position] = sent.identity
        if chunk:
            await self._store_with_retries(chunk, result)

    async def _store_with_retries(self, chunk: _Chunk, result: ImportResult) -> None:
        for _ in range(_ATTEMPTS):
            try:
                await self._store(chunk, result)
                return
            except Conflict:  # another writer stored one of the images, or images were removed
                continue
        raise Unavailable("other writers keep storing the same images; send them again")

    async def _check(self, sent: PoolImage) -> CheckedImage | MagFaceError:
        try:
            if isinstance(sent.face, MagFaceError):
                return sent.face
            return await self._vault.check(sent.face, "image", in_turn=True, require_face=True)
        except Unavailable:
            raise
        except MagFaceError as error:
            return without_frames(error)

    async def _store(self, chunk: _Chunk, result: ImportResult) -> None:
        async with transaction(self._pool, in_turn=True) as connection:
            epoch = await begin_upload(connection, chunk)
            cursor = await connection.execute(
                label_queries.IMAGES, {"hashes": [bytes.fromhex(sha256) for sha256 in chunk]}
            )
            stored = {facts.sha256: facts for facts in map(facts_from_row, await cursor.fetchall())}
            tombstones = await read_tombstones(connection, chunk.keys() - stored.keys())
        refusals = {
            sha256: reason
            for sha256, one in chunk.items()
            if (reason := _refusal(one, stored.get(sha256), tombstones))
        }
        accepted = {sha256: one for sha256, one in chunk.items() if sha256 not in refusals}
        new = [one.image for sha256, one in accepted.items() if sha256 not in stored]
        known = [one.image for sha256, one in accepted.items() if sha256 in stored]
        await asyncio.gather(
            *(self._vault.put(image, in_turn=True) for image in new),
            *(
                self._vault.restore(image, stored[image.facts.sha256], in_turn=True)
                for image in known
            ),
        )
        named = {
            (sha256, name)
            for sha256, one in accepted.items()
            for name in one.identities.values()
            if name
        }
        others, originals = await self._add_rows(new, named, epoch)
        result.created += len(new)
        result.known += sum(len(one.identities) for one in accepted.values()) - len(new)
        for sha256, reason in refusals.items():
            for position in chunk[sha256].identities:
                result.reject(position, reason)
        for sha256, one in accepted.items():
            for position, name in one.identities.items():
                if names := others.get((sha256, name)):
                    result.add_other_names(position, names)
            if original := originals.get(sha256):
                result.add_near_duplicate(min(one.identities), original)

    async def _add_rows(
        self, new: Sequence[CheckedImage], named: Collection[NamedImage], epoch: int
    ) -> tuple[Mapping[NamedImage, Sequence[str]], Mapping[str, str]]:
        """Add the rows of new images, and the names of the people on new and stored ones.

        Returns:
            The other names of images that have one beside the one given, and the near-identical
            image of each new image that has one, by their hex SHA-256.

        Raises:
            Conflict: If another writer stored one of the images, or images were removed.
        """
        async with transaction(self._pool, in_turn=True) as connection:
            await require_epoch(connection, epoch)
            columns = image_columns([image.facts for image in new])
            originals = await _find_near_duplicates(connection, columns)
            cursor = await connection.execute(label_queries.INSERT_IMAGES, columns)
            if len(await cursor.fetchall()) < len(new):
                raise Conflict("an image was stored meanwhile")
            others = await add_subjects(connection, named)
            await consensus_view.update_counters(connection, Counter(), images=len(new))
        return others, originals


async def _find_near_duplicates(
    connection: AsyncConnection, columns: Mapping[str, Sequence[Any]]
) -> dict[str, str]:
    """Find the near-identical image, stored before or earlier in the chunk, of new images."""
    hashes = [sha256.hex() for sha256 in columns["hashes"]]
    sent = {"hashes": columns["hashes"], "perceptual_hashes": columns["perceptual_hashes"]}
    bits = {"bits": NEAR_DUPLICATE_BITS}
    cursor = await connection.execute(queries.NEAR_DUPLICATES, sent | bits)
    stored = {sha256.hex(): original.hex() for sha256, original in await cursor.fetchall()}
    perceptual = np.frombuffer(b"".join(columns["perceptual_hashes"]), np.uint8)
    perceptual = perceptual.reshape(-1, HASH_BYTES)
    near = np.tril(near_duplicates(perceptual, perceptual), -1)
    chunk = {hashes[one]: hashes[near[one].argmax()] for one in np.flatnonzero(near.any(axis=1))}
    return chunk | stored


async def _read_chunk(
    images: BudgetedRequests[PoolImage],
) -> list[tuple[PoolImage, HeldBytes]]:
    chunk: list[tuple[PoolImage, HeldBytes]] = []
    size = 0
    try:
        while len(chunk) < _CHUNK_IMAGES and size < _CHUNK_BYTES:
            if chunk and images.must_wait:
                break
            image, held = await images.read()
            chunk.append((image, held))
            size += image_bytes(image)
    except StopAsyncIteration:
        pass
    except BaseException:
        for _, held in chunk:
            held.resize(0)
        raise
    return chunk


def image_bytes(image: PoolImage) -> int:
    """Give the encoded size of an image; 0 if it is rejected already."""
    return len(image.face.data) if isinstance(image.face, FaceImage) else 0


def _refusal(sent: _ChunkImage, stored: ImageFacts | None, tombstones: Tombstones) -> str:
    """Say why a checked image is rejected; empty if it is not."""
    try:
        if stored is None:
            tombstones.check_image("image", sent.image.facts.sha256)
        else:
            check_alignment(sent.image.facts, stored, "image")
    except MagFaceError as error:
        return str(error)
    return ""
