"""What the feedback service does, without a word of gRPC."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import Final

from psycopg.rows import TupleRow

from services.feedback.images.vault import CheckedImage, ImageVault, facts_from_row
from services.feedback.labels import queries
from services.feedback.labels import snapshots as exporting
from services.feedback.labels.batch_writer import BatchWriter
from services.feedback.labels.label_log import LabelLog
from services.feedback.labels.types import (
    Feedback,
    Label,
    ExportedPair,
    PairSummary,
    SubmitResult,
    Stats,
    Submission,
)
from services.feedback.labels.validation import check_feedback
from shared.errors import Conflict, CorruptData, InvalidInput, NotFound, Unavailable
from shared.model.image.face_reader import FaceImage
from shared.rpc.paging import read_page
from shared.storage.postgres import Pool, transaction

_BEFORE_ALL: Final = 2**63 - 1
_ATTEMPTS: Final = 5


class LabelService:
    """Keeps labels and images, and gives them back.

    Each method raises `Unavailable`, within a bounded time, when Postgres or the object
    store cannot answer, and `InvalidInput` naming the field for what breaks the contract.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Checks and keeps the images' bytes.
        ledger: Writes to the database.
        writer: Hands labels to the ledger.
        minimum_votes: With fewer votes a pair has no consensus.
    """

    def __init__(
        self,
        pool: Pool,
        vault: ImageVault,
        ledger: LabelLog,
        writer: BatchWriter,
        minimum_votes: int,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._ledger = ledger
        self._writer = writer
        self._minimum_votes = minimum_votes

    async def submit(self, feedback: Feedback) -> SubmitResult:
        """Store one label and its images; both are durable when this returns.

        Nothing is stored unless everything can be. A crash in between leaves at most an
        object that no row names. The same key with the same content is stored once.

        Raises:
            NotFound: If an image is given by a hash that is not stored.
            AlreadyExists: If the key was used for something else, or the bytes of an image
                are stored with another alignment.
            Overloaded: If too many labels wait to be stored.
        """
        check_feedback(feedback)
        image_a = await self._check_image("image_a", feedback.image_a)
        image_b = await self._check_image("image_b", feedback.image_b)
        sent = [image for image in (image_a, image_b) if isinstance(image, CheckedImage)]
        submission = Submission(
            _hash(image_a),
            _hash(image_b),
            feedback.label,
            feedback.annotator,
            feedback.idempotency_key,
            feedback.opinion,
            feedback.sureness,
            tuple(image.facts for image in sent),
        )
        if submission.image_a == submission.image_b:
            raise InvalidInput("image_b", "is the same image as image_a; two are needed")
        if not sent:
            return await self._writer.submit(submission)
        for _ in range(_ATTEMPTS):
            try:
                return await self._submit_with(sent, submission)
            except Conflict:
                continue
        raise Unavailable("images keep being removed meanwhile; send it again")

    async def get_image(self, sha256: str) -> tuple[FaceImage, datetime]:
        """Give a stored image, and since when it is stored.

        Args:
            sha256: 64 hex digits in lower case.

        Raises:
            NotFound: If it is not stored.
            CorruptData: If its object is gone or holds other bytes.
        """
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.IMAGES, {"hashes": [bytes.fromhex(sha256)]})
            row = await cursor.fetchone()
        if row is None:
            raise NotFound(f"sha256: image {sha256} is not stored")
        *_, stored_at = row
        facts = facts_from_row(row)
        try:
            data = await self._vault.get(sha256)
        except CorruptData:
            if not await self._has_row(sha256):
                raise NotFound(f"sha256: image {sha256} was erased at this moment") from None
            raise
        return FaceImage(data, facts.alignment, facts.landmarks), stored_at

    async def list_pairs(
        self, consensus: Label | None, page_size: int, page_token: str
    ) -> tuple[Sequence[PairSummary], str]:
        """List pairs, newest first.

        Args:
            consensus: Only pairs with this one; all if None.
            page_size: 1..1000; 100 if 0.
            page_token: What came with the page before; empty for the first.

        Returns:
            The page, and the token of the next; empty when this is the last.
        """
        page = read_page(page_size, page_token)
        before = _BEFORE_ALL if page.before is None else page.before
        wanted = {"before": before, "limit": page.limit, "consensus": consensus}
        query = queries.LIST_PAIRS if consensus is None else queries.LIST_PAIRS_OF_CONSENSUS
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(query, wanted)
            pairs = [_pair(row) async for row in cursor]
        return page.cut(pairs, attrgetter("pair_id"))

    async def export(self, snapshot_id: str) -> AsyncIterator[tuple[str, list[ExportedPair]]]:
        """Yield a snapshot's id with its pairs that have a consensus of SAME or DIFFERENT.

        Args:
            snapshot_id: One taken before; empty for what is stored now.

        Yields:
            At least one part, and none but the only one is empty; each of 500 pairs at most.

        Raises:
            NotFound: If there is no such snapshot.
        """
        snapshot = await (
            exporting.find_snapshot(self._pool, snapshot_id)
            if snapshot_id
            else exporting.take_snapshot(self._pool, self._minimum_votes)
        )
        empty = True
        async for pairs in exporting.export(self._pool, snapshot):
            if pairs:
                empty = False
                yield str(snapshot.snapshot_id), pairs
        if empty:
            yield str(snapshot.snapshot_id), []

    async def stats(self) -> Stats:
        """Count what is stored."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.STATS)
            return Stats(*[int(number) for number in await cursor.fetchone() or ()])

    async def _has_row(self, sha256: str) -> bool:
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.IMAGES, {"hashes": [bytes.fromhex(sha256)]})
            return await cursor.fetchone() is not None

    async def _submit_with(self, sent: Sequence[CheckedImage], submission: Submission) -> SubmitResult:
        """Store a label after its images' objects.

        Raises:
            Conflict: If one of its images was removed meanwhile.
        """
        known, epoch = await self._ledger.look(submission)
        if receipt := known.judge(submission):
            return receipt
        new = [image for image in sent if image.facts.sha256 in known.new_images]
        await asyncio.gather(*map(self._vault.put, new))
        # Only an image just written may get a row: one known a moment ago has its own.
        written = tuple(image.facts for image in new)
        ready = replace(submission, images=written, epoch=epoch if new else None)
        try:
            return await self._writer.submit(ready)
        except NotFound as error:
            raise Conflict("an image known a moment ago was removed") from error

    async def _check_image(self, field: str, image: FaceImage | str) -> CheckedImage | str:
        if isinstance(image, str):
            return image
        return await self._vault.check(image, f"{field}.image")


def _hash(image: CheckedImage | str) -> str:
    return image if isinstance(image, str) else image.facts.sha256


def _pair(row: TupleRow) -> PairSummary:
    pair_id, image_a, image_b, consensus, *figures = row
    label = Label(consensus) if consensus else None
    return PairSummary(pair_id, image_a.hex(), image_b.hex(), label, *figures)
