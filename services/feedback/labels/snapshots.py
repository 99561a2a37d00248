"""Data snapshots: every pair with a consensus as of a label."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from uuid import UUID

from services.feedback.labels import queries
from services.feedback.labels.consensus import majority
from services.feedback.labels.types import Label, ExportedPair
from shared.errors import NotFound
from shared.storage.postgres import Pool, transaction

PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The labels up to one, and the votes that a consensus on them needs."""

    snapshot_id: UUID
    max_label_id: int
    minimum_votes: int


async def take_snapshot(pool: Pool, minimum_votes: int) -> Snapshot:
    """Freeze what is stored now.

    The latest snapshot is given again while it would hold the same and nothing was erased from
    it: a version trained on it later must not seem to have learned from what was erased before.

    Raises:
        Unavailable: If the database cannot answer.
    """
    async with transaction(pool) as connection:
        await connection.execute(queries.LOCK_LABELS)
        rule = {"minimum_votes": minimum_votes}
        cursor = await connection.execute(queries.SAME_SNAPSHOT, rule)
        row = await cursor.fetchone()
        if row is None:
            cursor = await connection.execute(queries.TAKE_SNAPSHOT, rule)
            row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - INSERT … RETURNING gives its row
    return Snapshot(*row)


async def find_snapshot(pool: Pool, snapshot_id: str) -> Snapshot:
    """Find a snapshot that was taken before.

    Raises:
        NotFound: If there is none of that id.
        Unavailable: If the database cannot answer.
    """
    unknown = NotFound(f"snapshot_id: {snapshot_id!r} is not a snapshot of this service")
    try:
        wanted = UUID(snapshot_id)
    except ValueError:
        raise unknown from None
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.FIND_SNAPSHOT, {"snapshot_id": wanted})
        row = await cursor.fetchone()
    if row is None:
        raise unknown
    return Snapshot(*row)


async def export(pool: Pool, snapshot: Snapshot) -> AsyncIterator[list[ExportedPair]]:
    """Yield the pairs of a snapshot in the order of their ids, at most 500 at a time.

    Each page is a transaction of its own, so that a slow reader holds neither a connection
    nor the vacuum; the labels of a snapshot do not change in between.

    Raises:
        Unavailable: If the database cannot answer.
    """
    after, full = 0, True
    while full:
        async with transaction(pool) as connection:
            cursor = await connection.execute(
                queries.EXPORT_PAGE,
                {"after": after, "limit": PAGE, "max_label_id": snapshot.max_label_id},
            )
            rows = await cursor.fetchall()
        pairs = [list(votes) for _, votes in groupby(rows, key=lambda row: row[0])]
        if pairs:
            after = pairs[-1][0][0]
            labelled = (_labelled_pair(votes, snapshot.minimum_votes) for votes in pairs)
            yield [pair for pair in labelled if pair is not None]
        full = len(pairs) == PAGE


def _labelled_pair(
    rows: list[tuple[int, bytes, bytes, str | None, str]], minimum_votes: int
) -> ExportedPair | None:
    _, image_a, image_b, *_ = rows[0]
    votes = {who: Label(label) for _, _, _, who, label in rows if who is not None}
    consensus = majority(votes, minimum_votes)
    if consensus.label not in (Label.SAME, Label.DIFFERENT):
        return None
    return ExportedPair(image_a.hex(), image_b.hex(), consensus.label, consensus.confidence, votes)
