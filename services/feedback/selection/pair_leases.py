"""Hands pairs to people: each held for one annotator until its lease ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from psycopg import AsyncCursor

from services.feedback.selection import queries
from services.feedback.selection.strategies import MIX, Strategy
from shared.errors import InvalidInput, PreconditionFailed
from shared.storage.idempotency import IdempotencyKey, IdempotencyStore
from shared.storage.postgres import BoundedConnection, Pool, transaction

_LARGEST_COUNT: Final = 100
_DEFAULT_COUNT: Final = 10
_SETTLED_AT_ONCE: Final = 500
_KEPT_RESULTS: Final = IdempotencyStore("feedback")


@dataclass(frozen=True, slots=True)
class Sharing:
    """How pairs are shared out.

    Attributes:
        lease_s: How long a pair is held for one annotator, in seconds.
        random_share: Share of pairs drawn at random whatever the strategy, 0..1.
        gold_share: Share of pairs whose truth is known, 0..1.
        follows_embedder: Whether the pool is embedded at all.
    """

    lease_s: float
    random_share: float
    gold_share: float
    follows_embedder: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """A pair held for an annotator, by the hex SHA-256 of its images."""

    lease_id: int
    image_a: str
    image_b: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Handed:
    """What an annotator gets; the note says why it is not all as asked for."""

    leases: tuple[Lease, ...]
    note: str


class LeaseOffice:
    """Leases prepared candidates.

    Args:
        pool: Connections to a database with the schema `feedback`.
        sharing: How pairs are shared out.
        run_short: Called when there were fewer pairs than asked for.
        rng: Draws the random and the gold share.
    """

    def __init__(
        self,
        pool: Pool,
        sharing: Sharing,
        run_short: Callable[[], None],
        rng: np.random.Generator | None = None,
    ) -> None:
        self._pool = pool
        self._sharing = sharing
        self._run_short = run_short
        self._rng = rng or np.random.default_rng()

    async def next_pairs(
        self, annotator: str, count: int, strategy: Strategy | None, key: str | None = None
    ) -> Handed:
        """Lease pairs to an annotator, never one that they hold or have labelled.

        Args:
            annotator: Who will label them.
            count: 1..100; 10 if 0.
            strategy: How to choose; None takes the mix.
            key: Idempotency key, 1..128 characters; when it was used before, the leases made
                then are given again.

        Raises:
            InvalidInput: If the count is out of its range.
            AlreadyExists: If the key was used with another count or strategy.
            PreconditionFailed: If fewer than two images are stored.
            Unavailable: If the database cannot answer.
            Conflict: If a concurrent change came first; ask again.
        """
        if not 0 <= count <= _LARGEST_COUNT:
            raise InvalidInput("count", f"is {count}; 1..{_LARGEST_COUNT} are possible")
        wanted = count or _DEFAULT_COUNT
        once = IdempotencyKey.of(annotator, key, "next pairs", count=wanted, strategy=strategy)
        async with transaction(self._pool) as connection:
            if kept := await _KEPT_RESULTS.take(connection, once):
                return await _handed_before(connection, kept)
            # Pairs whose leases have ended without an answer come back first.
            await connection.execute(queries.SETTLE, {"limit": _SETTLED_AT_ONCE})
            leases = await self._lease(connection, annotator, self._plan(wanted, strategy))
            if strategy is not None and (missing := wanted - len(leases)):
                leases += await self._lease(connection, annotator, [(strategy, missing)])
            short = wanted - len(leases)
            for kind in (*MIX, Strategy.RANDOM):
                if missing := wanted - len(leases):
                    leases += await self._lease(connection, annotator, [(kind, missing)])
            missing = wanted - len(leases)
            otherwise = 0 if strategy is None else short - missing
            note = await self._note(connection, strategy, otherwise, missing)
            # Their order must not tell which ones are known.
            order = self._rng.permutation(len(leases))
            handed = Handed(tuple(leases[place] for place in order), note)
            result = {"lease_ids": [lease.lease_id for lease in handed.leases], "note": note}
            await _KEPT_RESULTS.keep(connection, once, result)
        if missing:
            self._run_short()
        return handed

    def _plan(self, wanted: int, strategy: Strategy | None) -> list[tuple[Strategy, int]]:
        gold = int(self._rng.binomial(wanted, self._sharing.gold_share))
        drawn = int(self._rng.binomial(wanted - gold, self._sharing.random_share))
        rest = wanted - gold - drawn
        shares = MIX if strategy is None else {strategy: 1.0}
        parts = self._rng.multinomial(rest, list(shares.values())).tolist()
        plan = [(Strategy.GOLD, gold), (Strategy.RANDOM, drawn), *zip(shares, parts, strict=True)]
        order = self._rng.permutation(len(plan))
        return [plan[place] for place in order if plan[place][1] > 0]

    async def _lease(
        self,
        connection: BoundedConnection,
        annotator: str,
        plan: Sequence[tuple[Strategy, int]],
    ) -> list[Lease]:
        cursor = await connection.execute(
            queries.LEASE,
            {
                "annotator": annotator,
                "strategies": [kind.value for kind, _ in plan],
                "counts": [count for _, count in plan],
                "lease_s": self._sharing.lease_s,
            },
        )
        return await _leases(cursor)

    async def _note(
        self,
        connection: BoundedConnection,
        strategy: Strategy | None,
        otherwise: int,
        missing: int,
    ) -> str:
        cursor = await connection.execute(queries.SITUATION)
        row = await cursor.fetchone()
        images, embedded = row if row else (0, False)
        if images < 2:
            raise PreconditionFailed(
                f"{images} images are stored, and a pair needs two: import images first"
            )
        notes = []
        if not embedded and strategy is not Strategy.RANDOM:
            why = (
                "the pool is not embedded yet"
                if self._sharing.follows_embedder
                else "the pool is not embedded, since MAGFACE_EMBEDDER_ADDRESS is not set"
            )
            notes.append(f"{why}: only pairs drawn at random or divided among people are chosen")
        if otherwise:
            notes.append(f"{otherwise} are chosen otherwise, for want of such pairs")
        if missing:
            notes.append(f"{missing} fewer than asked for: more are prepared in a moment")
        return "; ".join(notes)


async def _handed_before(connection: BoundedConnection, kept: Mapping[str, Any]) -> Handed:
    wanted = {"lease_ids": kept["lease_ids"]}
    cursor = await connection.execute(queries.LEASES_AGAIN, wanted)
    return Handed(tuple(await _leases(cursor)), kept["note"])


async def _leases(cursor: AsyncCursor) -> list[Lease]:
    return [Lease(number, a.hex(), b.hex(), until) async for number, a, b, until in cursor]
