"""Appends labels, with the images and pairs they speak of, a batch in one transaction."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from psycopg import AsyncConnection, AsyncCursor

from services.feedback.images.upload_fence import begin_upload, pass_gate, read_epoch
from services.feedback.images.vault import ImageFacts
from services.feedback.labels import consensus_view as derive
from services.feedback.labels import queries
from services.feedback.labels.idempotency import ExistingState, read_existing_state, receipt
from services.feedback.labels.types import SubmitResult, Submission
from shared.errors import Conflict, MagFaceError, Unavailable
from shared.storage.postgres import Pool, transaction

_ATTEMPTS: Final = 5

AppendResult = SubmitResult | MagFaceError


class LabelLog:
    """The only writer of images, pairs and labels.

    Args:
        pool: Connections to a database with the schema `feedback`.
        minimum_votes: With fewer votes a pair has no consensus.
    """

    def __init__(self, pool: Pool, minimum_votes: int) -> None:
        self._pool = pool
        self._minimum_votes = minimum_votes

    async def look(self, submission: Submission) -> tuple[ExistingState, int]:
        """Read what a submission names, and the epoch to write objects under.

        Raises:
            Unavailable: If one of its images is being removed now.
        """
        async with transaction(self._pool) as connection:
            sent = [facts.sha256 for facts in submission.images]
            epoch = await begin_upload(connection, sent)
            return await read_existing_state(connection, [submission]), epoch

    async def append(self, batch: Sequence[Submission]) -> list[AppendResult]:
        """Store a batch; when this returns, what has a receipt is durable.

        Each submission stands for itself: what one is refused for does not touch the
        others. The objects of its images must have been written before.

        Returns:
            For each submission a receipt, or the error it was refused with: NotFound for
            an image that is not stored, AlreadyExists for a reused key or for bytes that
            are stored with another alignment, Conflict if images were removed since its
            objects were written.

        Raises:
            Unavailable: If the database cannot answer, or other writers came first again
                and again; the batch may be sent again.
        """
        for _ in range(_ATTEMPTS):
            try:
                async with transaction(self._pool) as connection, connection.pipeline():
                    outcomes = await self._append(connection, batch)
                    # In the pipeline it travels with the last statements.
                    await connection.commit()
                return outcomes
            except Conflict:
                # What came first is among the known when the batch is read again.
                continue
        raise Unavailable("other writers keep storing the same images or keys; send it again")

    async def _append(
        self, connection: AsyncConnection, batch: Sequence[Submission]
    ) -> list[AppendResult]:
        passed = await pass_gate(connection)
        known = await read_existing_state(connection, batch)
        epoch = await read_epoch(passed)
        verdicts = [_judge(known, submission, epoch) for submission in batch]
        stored = await self._store(connection, known) if known.accepted else {}
        return [
            verdict or _new_receipt(submission, known, stored)
            for submission, verdict in zip(batch, verdicts, strict=True)
        ]

    async def _store(self, connection: AsyncConnection, known: ExistingState) -> dict[str, tuple[int, int]]:
        accepted = list(known.accepted.values())
        pair_ids = await _lock_pairs(connection, known.new_images, {one.pair for one in accepted})
        inserted = await _insert_labels(connection, accepted, pair_ids)
        changes = await derive.derive(connection, sorted(pair_ids.values()), self._minimum_votes)
        label_ids: dict[str, int] = {key: label_id async for key, label_id in inserted}
        if len(label_ids) < len(accepted):
            raise Conflict("an idempotency key was stored meanwhile")
        await derive.count(connection, changes, images=len(known.new_images), labels=len(label_ids))
        return {
            one.idempotency_key: (label_ids[one.idempotency_key], pair_ids[one.pair])
            for one in accepted
        }


def _judge(known: ExistingState, submission: Submission, epoch: int) -> AppendResult | None:
    if submission.epoch not in (None, epoch):
        return Conflict("images were removed since the objects of this label were written")
    try:
        return known.judge(submission)
    except MagFaceError as error:
        return error


def _new_receipt(
    submission: Submission, known: ExistingState, stored: dict[str, tuple[int, int]]
) -> SubmitResult:
    key = submission.idempotency_key
    return receipt(submission, *stored[key], created=known.accepted[key] is submission)


async def _lock_pairs(
    connection: AsyncConnection,
    new_images: Mapping[str, ImageFacts],
    pairs: Collection[tuple[str, str]],
) -> dict[tuple[str, str], int]:
    """Make the rows that labels need, and keep other writers off the pairs."""
    ordered = sorted(pairs)
    sides = {
        "a": [bytes.fromhex(a) for a, _ in ordered],
        "b": [bytes.fromhex(b) for _, b in ordered],
    }
    images = await connection.execute(queries.INSERT_IMAGES, image_columns(new_images.values()))
    await connection.execute(queries.INSERT_PAIRS, sides)
    locked = await connection.execute(queries.LOCK_PAIRS, sides)
    if len(await images.fetchall()) < len(new_images):
        raise Conflict("an image was stored meanwhile")
    return {(a.hex(), b.hex()): pair_id async for pair_id, a, b in locked}


def image_columns(images: Collection[ImageFacts]) -> dict[str, list[Any]]:
    """Give the parameters of `queries.INSERT_IMAGES`."""
    return {
        "hashes": [bytes.fromhex(facts.sha256) for facts in images],
        "sizes": [facts.size_bytes for facts in images],
        "media_types": [facts.media_type for facts in images],
        "alignments": [facts.alignment for facts in images],
        "landmarks": [_array_text(facts.landmarks) for facts in images],
    }


def _array_text(landmarks: tuple[tuple[float, float], ...]) -> str | None:
    numbers = ",".join(repr(number) for point in landmarks for number in point)
    return f"{{{numbers}}}" if numbers else None


async def _insert_labels(
    connection: AsyncConnection,
    accepted: Sequence[Submission],
    pair_ids: Mapping[tuple[str, str], int],
) -> AsyncCursor:
    opinions = [one.opinion for one in accepted]
    return await connection.execute(
        queries.INSERT_LABELS,
        {
            "pairs": [pair_ids[one.pair] for one in accepted],
            "annotators": [one.annotator for one in accepted],
            "labels": [one.label.value for one in accepted],
            "keys": [one.idempotency_key for one in accepted],
            "versions": [opinion and opinion.model_version for opinion in opinions],
            "similarities": [opinion and opinion.similarity for opinion in opinions],
            "thresholds": [opinion and opinion.threshold for opinion in opinions],
            "surenesses": [one.sureness for one in accepted],
        },
    )
