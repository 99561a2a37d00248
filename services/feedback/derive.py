"""Keeps what is derived from labels: each pair's consensus, and the counters."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Final

from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from services.feedback import queries
from services.feedback.consensus import Consensus, Rule
from services.feedback.domain import Label
from services.feedback.rules import Rules, newest
from shared.storage.postgres import Pool, transaction

_PAGE: Final = 1000


@dataclass(frozen=True, slots=True)
class _Derived:
    pair_id: int
    consensus: Consensus
    votes: Counter[Label]
    last_labelled: datetime


async def derive(
    connection: AsyncConnection, pair_ids: Sequence[int], rules: Rules
) -> Counter[str]:
    """Derive the consensus of pairs, which the transaction must have locked, from their labels.

    The rule is asked for under the lock: whoever changes it and then comes by waits for the
    lock, and derives anew.

    Returns:
        By how much the numbers of "same", "different" and "undecided" pairs change.
    """
    pairs = {"pairs": list(pair_ids)}
    asked = await rules.ask(connection)
    votes = await connection.execute(queries.CURRENT_VOTES, pairs)
    stored = await connection.execute(queries.CONSENSUS_BEFORE, pairs)
    derived = _derived(await votes.fetchall(), await rules.answer(connection, asked))
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


async def follow_rule(pool: Pool, rules: Rules) -> None:
    """Derive every consensus anew if the stored ones follow another rule.

    A page at a time, so that labels keep arriving meanwhile; begun again after a crash.

    Raises:
        Unavailable: If the database cannot answer.
    """
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.RULE)
        stored = await cursor.fetchone()
        rule = (rules.minimum_votes, await newest(await rules.ask(connection)))
    if rule == stored:
        return
    page = [0]
    while page:
        async with transaction(pool) as connection, connection.pipeline():
            cursor = await connection.execute(
                queries.LOCK_PAIRS_AFTER, {"after": page[-1], "limit": _PAGE}
            )
            page = [pair_id async for (pair_id,) in cursor]
            await count(connection, await derive(connection, page, rules))
    async with transaction(pool) as connection:
        named = dict(zip(("minimum_votes", "weighting_id"), rule, strict=True))
        await connection.execute(queries.SET_RULE, named)


def kind(consensus: str | None) -> str:
    return consensus if consensus in (Label.SAME, Label.DIFFERENT) else "undecided"


def _derived(rows: Sequence[TupleRow], rule: Rule) -> list[_Derived]:
    derived = []
    for pair_id, pair_rows in groupby(rows, key=lambda row: row[0]):
        votes, times = {}, []
        for _, annotator, label, labelled_at in pair_rows:
            votes[annotator] = Label(label)
            times.append(labelled_at)
        consensus = rule.judge(votes)
        derived.append(_Derived(pair_id, consensus, Counter(votes.values()), max(times)))
    return derived
