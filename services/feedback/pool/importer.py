"""Takes images into the pool that pairs to label are chosen from, without labels."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from services.feedback.images.upload_fence import begin_upload, require_epoch
from services.feedback.images.vault import CheckedImage, ImageVault, facts_from_row
from services.feedback.labels import consensus_view as derive
from services.feedback.labels import queries
from services.feedback.labels.idempotency import check_alignment
from services.feedback.labels.label_log import image_columns
from shared.errors import Conflict, MagFaceError, Unavailable
from shared.model.image.face_reader import FaceImage
from shared.storage.postgres import Pool, transaction

_CHUNK_IMAGES: Final = 64
_CHUNK_BYTES: Final = 32 * 2**20
_NAMED_REFUSALS: Final = 1000
_ATTEMPTS: Final = 5

NAME_SUBJECTS: Final = """
INSERT INTO feedback.image_subjects (sha256, subject)
SELECT sha256, subject FROM (
    SELECT sha256 FROM feedback.images WHERE sha256 = ANY(%(hashes)s::bytea[])
    ORDER BY sha256 FOR KEY SHARE
) AS here JOIN unnest(%(hashes)s::bytea[], %(subjects)s::text[]) AS said (sha256, subject)
     USING (sha256)
ON CONFLICT (sha256) DO NOTHING
"""


@dataclass(frozen=True, slots=True)
class PoolImage:
    """What a caller sends.

    Attributes:
        face: Or what is wrong with it or its identity already.
        identity: Who is on it; empty where nobody knows.
    """

    face: FaceImage | MagFaceError
    identity: str = ""


@dataclass(frozen=True, slots=True)
class ImageRejection:
    """Why the image at a place of the stream, counted from 0, was not taken."""

    place: int
    why: str


@dataclass
class ImportResult:
    """What became of a stream of images.

    Attributes:
        known: Stored before.
        refusals: The first 1,000.
    """

    created: int = 0
    known: int = 0
    refused: int = 0
    refusals: list[ImageRejection] = field(default_factory=list)

    def refuse(self, place: int, why: str) -> None:
        self.refused += 1
        if len(self.refusals) < _NAMED_REFUSALS:
            self.refusals.append(ImageRejection(place, why))


@dataclass(frozen=True, slots=True)
class _Checked:
    place: int
    image: CheckedImage
    identity: str


class PoolImporter:
    """Stores images in chunks: their objects first, then their rows.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Checks and keeps the bytes. One of its own lets a bulk import leave the
            threads of single submissions alone.
    """

    def __init__(self, pool: Pool, vault: ImageVault) -> None:
        self._pool = pool
        self._vault = vault

    async def import_images(self, images: AsyncIterator[PoolImage]) -> ImportResult:
        """Store a stream of images, holding at most a chunk of it in memory.

        An image that cannot be used is counted and named, and the others go on.

        Raises:
            Unavailable: If a store cannot answer; the chunks before are stored, and the
                same stream may be sent again.
        """
        intake = ImportResult()
        chunk: list[PoolImage] = []
        place, size = 0, 0
        async for image in images:
            chunk.append(image)
            size += len(image.face.data) if isinstance(image.face, FaceImage) else 0
            if len(chunk) == _CHUNK_IMAGES or size >= _CHUNK_BYTES:
                await self._take_chunk(chunk, place, intake)
                place, chunk, size = place + len(chunk), [], 0
        await self._take_chunk(chunk, place, intake)
        return intake

    async def _take_chunk(self, chunk: Sequence[PoolImage], first: int, intake: ImportResult) -> None:
        outcomes = await asyncio.gather(*map(self._check, chunk))
        checked: dict[str, _Checked] = {}
        for place, (sent, outcome) in enumerate(zip(chunk, outcomes, strict=True), first):
            if isinstance(outcome, MagFaceError):
                intake.refuse(place, str(outcome))
            elif outcome.facts.sha256 in checked:
                intake.known += 1
            else:
                checked[outcome.facts.sha256] = _Checked(place, outcome, sent.identity)
        if checked:
            await self._store_patiently(checked, intake)

    async def _store_patiently(self, checked: dict[str, _Checked], intake: ImportResult) -> None:
        for _ in range(_ATTEMPTS):
            try:
                await self._store(checked, intake)
                return
            except Conflict:  # one of them was stored meanwhile, or images were removed
                continue
        raise Unavailable("other writers keep storing the same images; send them again")

    async def _check(self, sent: PoolImage) -> CheckedImage | MagFaceError:
        try:
            if isinstance(sent.face, MagFaceError):
                return sent.face
            return await self._vault.check(sent.face, "image")
        except Unavailable:
            raise
        except MagFaceError as error:
            return error

    async def _store(self, checked: dict[str, _Checked], intake: ImportResult) -> None:
        hashes = [bytes.fromhex(sha256) for sha256 in checked]
        async with transaction(self._pool) as connection:
            epoch = await begin_upload(connection, checked)
            cursor = await connection.execute(queries.IMAGES, {"hashes": hashes})
            here = {facts.sha256: facts for facts in map(facts_from_row, await cursor.fetchall())}
        refusals: dict[str, str] = {}
        for sha256, facts in here.items():
            try:
                check_alignment(checked[sha256].image.facts, facts, "image")
            except MagFaceError as error:
                refusals[sha256] = str(error)
        new = [one.image for sha256, one in checked.items() if sha256 not in here]
        await asyncio.gather(*map(self._vault.put, new))
        named = {
            bytes.fromhex(sha256): one.identity
            for sha256, one in checked.items()
            if one.identity and sha256 not in refusals
        }
        async with transaction(self._pool) as connection:
            await require_epoch(connection, epoch)
            columns = image_columns([image.facts for image in new])
            cursor = await connection.execute(queries.INSERT_IMAGES, columns)
            if len(await cursor.fetchall()) < len(new):
                raise Conflict("an image was stored meanwhile")
            subjects = {"hashes": list(named), "subjects": list(named.values())}
            await connection.execute(NAME_SUBJECTS, subjects)
            await derive.count(connection, Counter(), images=len(new))
        intake.created += len(new)
        intake.known += len(here) - len(refusals)
        for sha256, why in refusals.items():
            intake.refuse(checked[sha256].place, why)
