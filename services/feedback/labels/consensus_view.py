"""Consensus view: the stored consensus of each pair and the counters, derived from labels."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.feedback.labels import queries
from services.feedback.labels.consensus import Consensus, majority
from services.feedback.labels.types import Label
from shared.storage.postgres import Pool, transaction

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class ConsensusRule:
    """The rule that every stored consensus is derived by.

    Attributes:
        minimum_votes: With fewer votes a pair has no consensus.
        method: ``majority``, or ``weighted`` if an earlier version of the service derived it.
    """

    minimum_votes: int
    method: str = "majority"


@dataclass(frozen=True, slots=True)
class _DerivedPair:
    pair_id: int
    consensus: Consensus
    votes: Counter[Label]
    last_labelled: datetime


async def update_consensus(
    connection: AsyncConnection, pair_ids: Sequence[int], minimum_votes: int
) -> Counter[str]:
    """Derive the consensus of pairs from their labels and store it.

    Args:
        connection: In a transaction that has locked the pairs.
        pair_ids: The pairs.
        minimum_votes: With fewer votes a pair has no consensus.

    Returns:
        The change of the number of "same", "different" and "undecided" pairs, for
        `update_counters`.
    """
    pairs = {"pairs": list(pair_ids)}
    votes = await connection.execute(queries.CURRENT_VOTES, pairs)
    stored = await connection.execute(queries.CONSENSUS_BEFORE, pairs)
    derived = _derive(await votes.fetchall(), minimum_votes)
    before = Counter([counter_of(consensus) async for _, consensus in stored])
    await connection.execute(
        queries.STORE_CONSENSUS,
        {
            "pairs": [pair.pair_id for pair in derived],
            "consensus": [pair.consensus.label for pair in derived],
            "confidence": [pair.consensus.confidence for pair in derived],
            "same": [pair.votes[Label.SAME] for pair in derived],
            "different": [pair.votes[Label.DIFFERENT] for pair in derived],
            "unsure": [pair.votes[Label.UNSURE] for pair in derived],
            "last": [pair.last_labelled for pair in derived],
        },
    )
    changes = Counter(counter_of(pair.consensus.label) for pair in derived)
    changes.subtract(before)
    return changes


async def update_counters(
    connection: AsyncConnection, changes: Counter[str], *, images: int = 0, labels: int = 0
) -> None:
    """Add to the counters, as part of the transaction."""
    await connection.execute(
        queries.COUNT,
        {
            "images": images,
            "labels": labels,
            "same": changes["same"],
            "different": changes["different"],
            "undecided": changes["undecided"],
        },
    )


async def read_rule(pool: Pool) -> ConsensusRule | None:
    """Read the rule that every stored consensus is derived by; None in a new database.

    Raises:
        Unavailable: If the database does not answer.
    """
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.RULE)
        row = await cursor.fetchone()
    return None if row is None else ConsensusRule(*row)


async def apply_rule(pool: Pool, minimum_votes: int) -> None:
    """Derive every consensus again if the stored ones are derived by another rule.

    Works page by page, so that labels can be added meanwhile. After a crash it starts over.

    Raises:
        Unavailable: If the database does not answer.
    """
    if await read_rule(pool) == ConsensusRule(minimum_votes):
        return
    page = [0]
    while page:
        async with transaction(pool) as connection, connection.pipeline():
            cursor = await connection.execute(
                queries.LOCK_PAIRS_AFTER, {"after": page[-1], "limit": _PAGE}
            )
            page = [pair_id async for (pair_id,) in cursor]
            changes = await update_consensus(connection, page, minimum_votes)
            await update_counters(connection, changes)
    async with transaction(pool) as connection:
        await connection.execute(queries.SET_RULE, {"minimum_votes": minimum_votes})


def counter_of(consensus: str | None) -> str:
    """Name the counter of a pair by its consensus: "same", "different" or "undecided"."""
    return consensus if consensus in (Label.SAME, Label.DIFFERENT) else "undecided"


def _derive(rows: Sequence[TupleRow], minimum_votes: int) -> list[_DerivedPair]:
    derived = []
    for pair_id, pair_rows in groupby(rows, key=lambda row: row[0]):
        votes, times = {}, []
        for _, annotator, label, labelled_at in pair_rows:
            votes[annotator] = Label(label)
            times.append(labelled_at)
        consensus = majority(votes, minimum_votes)
        derived.append(_DerivedPair(pair_id, consensus, Counter(votes.values()), max(times)))
    return derived
