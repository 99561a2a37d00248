"""Data snapshots: the pairs with a consensus as of a label id."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import groupby
from typing import Final
from uuid import UUID

from services.feedback.labels import queries
from services.feedback.labels.consensus import majority
from services.feedback.labels.types import ExportedPair, Label
from shared.errors import NotFound
from shared.storage.postgres import Pool, transaction

_PAGE: Final = 500


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All labels up to an id.

    Attributes:
        max_label_id: The last label of the snapshot.
        minimum_votes: With fewer votes a pair has no consensus in this snapshot.
    """

    snapshot_id: UUID
    max_label_id: int
    minimum_votes: int


async def take_snapshot(pool: Pool, minimum_votes: int) -> Snapshot:
    """Take a snapshot of the labels that are stored now.

    Returns the latest snapshot again if it holds the same labels and nothing was erased from it.
    A snapshot that lost images is not reused: a model version trained on it would be listed as
    trained on the erased images.

    Raises:
        Unavailable: If the database does not answer.
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
    """Look up a snapshot.

    Raises:
        NotFound: If there is no snapshot of this id.
        Unavailable: If the database does not answer.
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


async def export_pages(pool: Pool, snapshot: Snapshot) -> AsyncIterator[list[ExportedPair]]:
    """Yield the pairs of a snapshot in the order of their ids, at most 500 at a time.

    Each page is read in a transaction of its own, so that a slow reader holds neither a
    connection nor back the vacuum. The labels of a snapshot do not change between pages.

    Raises:
        Unavailable: If the database does not answer.
    """
    after, full = 0, True
    while full:
        async with transaction(pool) as connection:
            cursor = await connection.execute(
                queries.EXPORT_PAGE,
                {"after": after, "limit": _PAGE, "max_label_id": snapshot.max_label_id},
            )
            rows = await cursor.fetchall()
        pairs = [list(votes) for _, votes in groupby(rows, key=lambda row: row[0])]
        if pairs:
            after = pairs[-1][0][0]
            exported = (_exported_pair(votes, snapshot.minimum_votes) for votes in pairs)
            yield [pair for pair in exported if pair is not None]
        full = len(pairs) == _PAGE


def _exported_pair(
    rows: list[tuple[int, bytes, bytes, str | None, str]], minimum_votes: int
) -> ExportedPair | None:
    """Make a pair of its rows, one for each vote; None without a consensus."""
    _, image_a, image_b, *_ = rows[0]
    votes = {annotator: Label(label) for _, _, _, annotator, label in rows if annotator is not None}
    consensus = majority(votes, minimum_votes)
    if consensus.label not in (Label.SAME, Label.DIFFERENT):
        return None
    return ExportedPair(image_a.hex(), image_b.hex(), consensus.label, consensus.confidence, votes)
