"""Derived data: the consensus of each pair, and the counters."""

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
    """The rule that every stored consensus was derived by.

    Attributes:
        minimum_votes: With fewer votes a pair has no consensus.
        rule: ``majority``, or ``weighted`` if an earlier version of the service derived it.
    """

    minimum_votes: int
    rule: str = "majority"


@dataclass(frozen=True, slots=True)
class _Derived:
    pair_id: int
    consensus: Consensus
    votes: Counter[Label]
    last_labelled: datetime


async def derive(
    connection: AsyncConnection, pair_ids: Sequence[int], minimum_votes: int
) -> Counter[str]:
    """Derive the consensus of pairs, which the transaction must have locked, from their labels.

    Returns:
        By how much the numbers of "same", "different" and "undecided" pairs change.
    """
    pairs = {"pairs": list(pair_ids)}
    votes = await connection.execute(queries.CURRENT_VOTES, pairs)
    stored = await connection.execute(queries.CONSENSUS_BEFORE, pairs)
    derived = _derived(await votes.fetchall(), minimum_votes)
    before = Counter([kind(consensus) async for _, consensus in stored])
    await connection.execute(
        queries.STORE_CONSENSUS,
        {
            "pairs": [one.pair_id for one in derived],
            "consensus": [one.consensus.label for one in derived],
            "confidence": [one.consensus.confidence for one in derived],
            "same": [one.votes[Label.SAME] for one in derived],
            "different": [one.votes[Label.DIFFERENT] for one in derived],
            "unsure": [one.votes[Label.UNSURE] for one in derived],
            "last": [one.last_labelled for one in derived],
        },
    )
    after = Counter(kind(one.consensus.label) for one in derived)
    after.subtract(before)
    return after


async def count(
    connection: AsyncConnection, changes: Counter[str], *, images: int = 0, labels: int = 0
) -> None:
    """Add to the counters; they change with the transaction or not at all."""
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


async def derived_by(pool: Pool) -> ConsensusRule | None:
    """Read the rule that every stored consensus was derived by; None in a new database.

    Raises:
        Unavailable: If the database cannot answer.
    """
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.RULE)
        row = await cursor.fetchone()
    return None if row is None else ConsensusRule(*row)


async def rederive_consensus(pool: Pool, minimum_votes: int) -> None:
    """Derive every consensus anew if the stored ones were derived by another rule.

    A page at a time, so that labels keep arriving meanwhile. After a crash it starts over.

    Raises:
        Unavailable: If the database cannot answer.
    """
    if await derived_by(pool) == ConsensusRule(minimum_votes):
        return
    page = [0]
    while page:
        async with transaction(pool) as connection, connection.pipeline():
            cursor = await connection.execute(
                queries.LOCK_PAIRS_AFTER, {"after": page[-1], "limit": _PAGE}
            )
            page = [pair_id async for (pair_id,) in cursor]
            await count(connection, await derive(connection, page, minimum_votes))
    async with transaction(pool) as connection:
        await connection.execute(queries.SET_RULE, {"minimum_votes": minimum_votes})


def kind(consensus: str | None) -> str:
    return consensus if consensus in (Label.SAME, Label.DIFFERENT) else "undecided"


def _derived(rows: Sequence[TupleRow], minimum_votes: int) -> list[_Derived]:
    derived = []
    for pair_id, pair_rows in groupby(rows, key=lambda row: row[0]):
        votes, times = {}, []
        for _, annotator, label, labelled_at in pair_rows:
            votes[annotator] = Label(label)
            times.append(labelled_at)
        consensus = majority(votes, minimum_votes)
        derived.append(_Derived(pair_id, consensus, Counter(votes.values()), max(times)))
    return derived
