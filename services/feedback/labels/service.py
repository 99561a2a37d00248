"""Label service: stores labels with their images, and lists and exports pairs."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from operator import attrgetter
from typing import Final

from psycopg.rows import TupleRow

from services.feedback.images.vault import CheckedImage, ImageFacts, ImageVault, facts_from_row
from services.feedback.labels import queries
from services.feedback.labels.batch_writer import BatchWriter
from services.feedback.labels.label_log import LabelLog
from services.feedback.labels.snapshots import export_pages, find_snapshot, take_snapshot
from services.feedback.labels.types import (
    ExportedPair,
    Feedback,
    Label,
    PairSummary,
    Stats,
    Submission,
    SubmitResult,
)
from services.feedback.labels.validation import check_numbers
from shared.errors import (
    Conflict,
    CorruptData,
    InvalidInput,
    NotFound,
    Unavailable,
    without_frames,
)
from shared.model.image.face import FaceImage
from shared.rpc.paging import read_page
from shared.storage.postgres import Pool, fetch, transaction

_AFTER_ALL_IDS: Final = 2**63 - 1
_ATTEMPTS: Final = 5


class LabelService:
    """Stores labels and images, and reads them back.

    Each method raises `Unavailable`, within a bounded time, when Postgres or the object
    store does not answer, and `InvalidInput` naming the field for an invalid argument.

    Args:
        pool: Connections to a database with the schema `feedback`.
        vault: Checks images and stores their bytes.
        log: Adds rows to the database.
        writer: Appends labels to the log in batches.
        minimum_votes: With fewer votes a pair has no consensus.
    """

    def __init__(
        self,
        pool: Pool,
        vault: ImageVault,
        log: LabelLog,
        writer: BatchWriter,
        minimum_votes: int,
    ) -> None:
        self._pool = pool
        self._vault = vault
        self._log = log
        self._writer = writer
        self._minimum_votes = minimum_votes

    async def submit(self, feedback: Feedback, *, in_turn: bool = False) -> SubmitResult:
        """Store one label and its images; both are durable when this returns.

        All of it is stored or nothing. A crash leaves at most an object that has no row. The same
        key with the same content is stored once.

        Args:
            feedback: The label and its images.
            in_turn: Whether its images and the label wait for their turn as long as it takes, as
                those of a stream do, which are bounded.

        Raises:
            NotFound: If an image is given by a hash that is not stored.
            AlreadyExists: If the key was used for other content, or the bytes of an image are
                stored with another alignment or box.
            PreconditionFailed: If an image refuses several faces and there is no detector, or the
                label or an image was erased on request and is still refused.
            Overloaded: If too many labels wait to be stored, or too many images to be checked.
        """
        check_numbers(feedback)
        image_a = await self._check_image("image_a", feedback.image_a, in_turn)
        image_b = await self._check_image("image_b", feedback.image_b, in_turn)
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
            subjects=tuple(
                (_hash(image), identity)
                for image, identity in (
                    (image_a, feedback.identity_a),
                    (image_b, feedback.identity_b),
                )
                if identity
            ),
        )
        if submission.image_a == submission.image_b:
            raise InvalidInput("image_b", "is the same image as image_a; send two images")
        if not sent:
            return await self._writer.submit(submission, in_turn=in_turn)
        for _ in range(_ATTEMPTS):
            try:
                return await self._submit_with_images(sent, submission, in_turn)
            except Conflict:
                continue
        raise Unavailable("images were removed at each attempt; send the label again")

    async def get_image(self, sha256: str) -> tuple[FaceImage, datetime]:
        """Read a stored image, and the time it was stored at.

        Args:
            sha256: 64 hex digits in lower case.

        Raises:
            NotFound: If it is not stored.
            CorruptData: If its object is missing or holds other bytes.
        """
        row = await self._image_row(sha256)
        if row is None:
            raise NotFound(f"sha256: image {sha256} is not stored")
        *_, stored_at, _ = row
        facts = facts_from_row(row)
        try:
            data = await self._vault.get(facts)
        except CorruptData:
            if await self._image_row(sha256) is None:
                raise NotFound(f"sha256: image {sha256} was erased while it was read") from None
            raise
        return facts.face(data), stored_at

    async def list_pairs(
        self, consensus: Label | None, page_size: int, page_token: str
    ) -> tuple[Sequence[PairSummary], str]:
        """List pairs, newest first.

        Args:
            consensus: Only pairs with this consensus; all pairs if None.
            page_size: 1..1000; 100 if 0.
            page_token: From the previous page; empty for the first page.

        Returns:
            The page, and the token of the next page; empty after the last one.
        """
        page = read_page(page_size, page_token)
        before = _AFTER_ALL_IDS if page.before is None else page.before
        wanted = {"before": before, "limit": page.limit, "consensus": consensus}
        query = queries.LIST_PAIRS if consensus is None else queries.LIST_PAIRS_OF_CONSENSUS
        pairs = [_pair_summary(row) for row in await fetch(self._pool, query, wanted)]
        return page.cut(pairs, attrgetter("pair_id"))

    async def export(self, snapshot_id: str) -> AsyncIterator[tuple[str, list[ExportedPair]]]:
        """Yield a snapshot's id with its pairs that have a consensus of SAME or DIFFERENT.

        Args:
            snapshot_id: Of an existing snapshot; empty for what is stored now.

        Yields:
            Parts of 1..500 pairs. A snapshot without such pairs yields one empty part.

        Raises:
            NotFound: If there is no snapshot of this id.
        """
        snapshot = await (
            find_snapshot(self._pool, snapshot_id)
            if snapshot_id
            else take_snapshot(self._pool, self._minimum_votes)
        )
        empty = True
        async for pairs in export_pages(self._pool, snapshot):
            if pairs:
                empty = False
                yield str(snapshot.snapshot_id), pairs
        if empty:
            yield str(snapshot.snapshot_id), []

    async def stats(self) -> Stats:
        """Count what is stored."""
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.STATS)
            counts = [int(number) for number in await cursor.fetchone() or ()]
        return Stats(*counts, *[len(self._vault.damaged)])

    async def _submit_with_images(
        self, sent: Sequence[CheckedImage], submission: Submission, in_turn: bool
    ) -> SubmitResult:
        """Write the objects of a label's images, also missing ones of stored images.

        Then store the label.

        Raises:
            Conflict: If one of its images was removed meanwhile.
        """
        state, epoch = await self._log.read_existing(submission, in_turn=in_turn)
        result = state.accept(submission)
        new = [image for image in sent if image.facts.sha256 in state.new_images]
        known = [image for image in sent if image.facts.sha256 not in state.new_images]
        *_, restored = await asyncio.gather(
            *(self._vault.put(image, in_turn=in_turn) for image in new),
            self._restore(known, state.images, in_turn),
        )
        if result and not submission.subjects:
            if restored:
                await self._log.require_epoch(epoch, in_turn=in_turn)
            return result
        # A row is added only for images whose object was written above. An image that had a row
        # keeps it.
        written = tuple(image.facts for image in new)
        ready = replace(submission, images=written, epoch=epoch if new or restored else None)
        try:
            return await self._writer.submit(ready, in_turn=in_turn)
        except NotFound as error:
            raise Conflict(
                "an image was removed while the label was being stored"
            ) from without_frames(error)

    async def _restore(
        self, known: Sequence[CheckedImage], stored: Mapping[str, ImageFacts], in_turn: bool
    ) -> bool:
        """Write missing and damaged objects of images again; says whether there were any.

        An image that is not among those stored was added by a call with the same key since these
        were read, and from the same bytes.
        """
        restored = (
            self._vault.restore(image, stored.get(image.facts.sha256, image.facts), in_turn=in_turn)
            for image in known
        )
        return any(await asyncio.gather(*restored))

    async def _check_image(
        self, field: str, image: FaceImage | str, in_turn: bool
    ) -> CheckedImage | str:
        if isinstance(image, str):
            return image
        return await self._vault.check(image, f"{field}.image", in_turn=in_turn)

    async def _image_row(self, sha256: str) -> TupleRow | None:
        wanted = {"hashes": [bytes.fromhex(sha256)]}
        return next(iter(await fetch(self._pool, queries.IMAGES, wanted)), None)


def _hash(image: CheckedImage | str) -> str:
    return image if isinstance(image, str) else image.facts.sha256


def _pair_summary(row: TupleRow) -> PairSummary:
    pair_id, image_a, image_b, consensus, *figures = row
    label = Label(consensus) if consensus else None
    return PairSummary(pair_id, image_a.hex(), image_b.hex(), label, *figures)
