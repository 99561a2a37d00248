"""Appends labels, with the images and pairs they speak of, a batch in one transaction."""

from collections.abc import Collection, Sequence
from typing import Final

from psycopg import AsyncConnection

from services.feedback import derive, queries
from services.feedback.domain import ImageFacts, Receipt, Submission
from services.feedback.known import Known, read_known, receipt
from shared.errors import Conflict, MagFaceError, Unavailable
from shared.storage.postgres import Pool, transaction

_ATTEMPTS: Final = 5

Outcome = Receipt | MagFaceError


class Ledger:
    """The only writer of images, pairs and labels.

    Args:
        pool: Connections to a database with the schema `feedback`.
        minimum_votes: Votes that a consensus needs.
    """

    def __init__(self, pool: Pool, minimum_votes: int) -> None:
        self._pool = pool
        self._minimum_votes = minimum_votes

    async def look(self, submission: Submission) -> Known:
        """Read what a submission names, and change nothing."""
        async with transaction(self._pool) as connection:
            return await read_known(connection, [submission])

    async def append(self, batch: Sequence[Submission]) -> list[Outcome]:
        """Store a batch; when this returns, what has a receipt is durable.

        Each submission stands for itself: what one is refused for does not touch the
        others. The objects of its images must have been written before.

        Returns:
            For each submission a receipt, or the error it was refused with: NotFound for
            an image that is not stored, AlreadyExists for a reused key or for bytes that
            are stored with another alignment.

        Raises:
            Unavailable: If the database cannot answer, or other writers came first again
                and again; the batch may be sent again.
        """
        for _ in range(_ATTEMPTS):
            try:
                async with transaction(self._pool) as connection:
                    return await self._append(connection, batch)
            except Conflict:
                # What came first is among the known when the batch is read again.
                continue
        raise Unavailable("other writers keep storing the same images or keys; send it again")

    async def _append(
        self, connection: AsyncConnection, batch: Sequence[Submission]
    ) -> list[Outcome]:
        known = await read_known(connection, batch)
        verdicts = [_judge(known, submission) for submission in batch]
        stored = await self._store(connection, known) if known.accepted else {}
        return [
            verdict or _new_receipt(submission, known, stored)
            for submission, verdict in zip(batch, verdicts, strict=True)
        ]

    async def _store(self, connection: AsyncConnection, known: Known) -> dict[str, tuple[int, int]]:
        accepted = list(known.accepted.values())
        await _insert_images(connection, known.new_images.values())
        pair_ids = await _lock_pairs(connection, {one.pair for one in accepted})
        label_ids = await _insert_labels(connection, accepted, pair_ids)
        changes = await derive.derive(connection, sorted(pair_ids.values()), self._minimum_votes)
        await derive.count(connection, changes, images=len(known.new_images), labels=len(label_ids))
        return {
            one.idempotency_key: (label_ids[one.idempotency_key], pair_ids[one.pair])
            for one in accepted
        }


def _judge(known: Known, submission: Submission) -> Outcome | None:
    try:
        return known.judge(submission)
    except MagFaceError as error:
        return error


def _new_receipt(
    submission: Submission, known: Known, stored: dict[str, tuple[int, int]]
) -> Receipt:
    key = submission.idempotency_key
    return receipt(submission, *stored[key], created=known.accepted[key] is submission)


async def _insert_images(connection: AsyncConnection, images: Collection[ImageFacts]) -> None:
    if not images:
        return
    rows = [
        (
            bytes.fromhex(facts.sha256),
            facts.size_bytes,
            facts.media_type,
            facts.alignment,
            [number for point in facts.landmarks for number in point] or None,
        )
        for facts in sorted(images, key=lambda facts: facts.sha256)
    ]
    async with connection.cursor() as cursor:
        await cursor.executemany(queries.INSERT_IMAGE, rows)
        if cursor.rowcount < len(rows):
            raise Conflict("an image was stored meanwhile")


async def _lock_pairs(
    connection: AsyncConnection, pairs: Collection[tuple[str, str]]
) -> dict[tuple[str, str], int]:
    ordered = sorted(pairs)
    sides = {
        "a": [bytes.fromhex(a) for a, _ in ordered],
        "b": [bytes.fromhex(b) for _, b in ordered],
    }
    await connection.execute(queries.INSERT_PAIRS, sides)
    cursor = await connection.execute(queries.LOCK_PAIRS, sides)
    return {(a.hex(), b.hex()): pair_id async for pair_id, a, b in cursor}


async def _insert_labels(
    connection: AsyncConnection,
    accepted: Sequence[Submission],
    pair_ids: dict[tuple[str, str], int],
) -> dict[str, int]:
    opinions = [one.opinion for one in accepted]
    cursor = await connection.execute(
        queries.INSERT_LABELS,
        {
            "pairs": [pair_ids[one.pair] for one in accepted],
            "annotators": [one.annotator for one in accepted],
            "labels": [one.label.value for one in accepted],
            "keys": [one.idempotency_key for one in accepted],
            "versions": [opinion and opinion.model_version for opinion in opinions],
            "similarities": [opinion and opinion.similarity for opinion in opinions],
            "thresholds": [opinion and opinion.threshold for opinion in opinions],
        },
    )
    label_ids: dict[str, int] = {key: label_id async for key, label_id in cursor}
    if len(label_ids) < len(accepted):
        raise Conflict("an idempotency key was stored meanwhile")
    return label_ids
