"""Pair leases: holds a pair for one annotator until its lease ends."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

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
_RESULTS: Final = IdempotencyStore("feedback")


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """How pairs are leased.

    Attributes:
        lease_s: How long a pair is held for one annotator, in seconds.
        random_share: Share of random pairs whatever the strategy, 0..1.
        gold_share: Share of gold pairs, whose truth is known, 0..1.
        has_embedder: Whether an embedder is configured, for the note.
    """

    lease_s: float
    random_share: float
    gold_share: float
    has_embedder: bool


@dataclass(frozen=True, slots=True)
class Lease:
    """A pair held for an annotator, by the hex SHA-256 of its images."""

    lease_id: int
    image_a: str
    image_b: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class LeasedPairs:
    """The leases of one request.

    Attributes:
        note: Why they differ from what was requested; empty if they do not.
        held_until: If there are fewer than requested, when the first pair that another annotator
            holds is free, unless they label it; None if there are enough or nobody holds any.
    """

    leases: tuple[Lease, ...]
    note: str
    held_until: datetime | None = None


class _Held(NamedTuple):
    """How many pairs other annotators hold, and when the first of their leases ends."""

    pairs: int
    first_until: datetime | None


class PairLeaser:
    """Leases pairs of the candidate queue.

    Args:
        pool: Connections to a database with the schema `feedback`.
        policy: How pairs are leased.
        on_shortage: Called when there were fewer pairs than requested.
        rng: Draws the strategies of the pairs.
    """

    def __init__(
        self,
        pool: Pool,
        policy: LeasePolicy,
        on_shortage: Callable[[], None],
        rng: np.random.Generator | None = None,
    ) -> None:
        self._pool = pool
        self._policy = policy
        self._on_shortage = on_shortage
        self._rng = rng or np.random.default_rng()

    async def next_pairs(
        self, annotator: str, count: int, strategy: Strategy | None, key: str | None = None
    ) -> LeasedPairs:
        """Lease pairs to an annotator, none that they have labelled.

        Pairs that they hold already come first, and are held as long as if they were leased now.

        Args:
            annotator: Who will label them.
            count: 1..100; 10 if 0.
            strategy: How to select them; the mix if None.
            key: Idempotency key, 1..128 characters. A key that was used before gives the same
                leases again.

        Raises:
            InvalidInput: If the count is out of range.
            AlreadyExists: If the key was used with another count or strategy.
            PreconditionFailed: If fewer than two images are stored.
            Unavailable: If the database does not answer.
            Conflict: If a concurrent change won; call again.
        """
        if not 0 <= count <= _LARGEST_COUNT:
            raise InvalidInput("count", f"is {count}; it must be in 1..{_LARGEST_COUNT}")
        wanted = count or _DEFAULT_COUNT
        once = IdempotencyKey.of(annotator, key, "next pairs", count=wanted, strategy=strategy)
        async with transaction(self._pool) as connection:
            if kept := await _RESULTS.claim(connection, once):
                return await _leased_before(connection, kept)
            leased = await self._lease_new(connection, annotator, wanted, strategy)
            result = {
                "lease_ids": [lease.lease_id for lease in leased.leases],
                "note": leased.note,
                "held_until": leased.held_until and leased.held_until.isoformat(),
            }
            await _RESULTS.save(connection, once, result)
        if len(leased.leases) < wanted:
            self._on_shortage()
        return leased

    async def _lease_new(
        self, connection: BoundedConnection, annotator: str, wanted: int, strategy: Strategy | None
    ) -> LeasedPairs:
        await connection.execute(queries.WAIT_FOR_ANNOTATOR, {"annotator": annotator})
        # Pairs whose leases have expired without an answer become available first.
        await connection.execute(queries.SETTLE, {"limit": _SETTLED_AT_ONCE})
        own = await self._renew(connection, annotator, wanted)
        wanted -= len(own)
        leases = await self._lease(connection, annotator, self._plan(wanted, strategy))
        if strategy is not None and (missing := wanted - len(leases)):
            leases += await self._lease(connection, annotator, [(strategy, missing)])
        before_fallback = len(leases)
        for fallback in (*MIX, Strategy.RANDOM):
            if missing := wanted - len(leases):
                leases += await self._lease(connection, annotator, [(fallback, missing)])
        replaced = 0 if strategy is None else len(leases) - before_fallback
        missing = wanted - len(leases)
        held = await _held_by_others(connection, annotator) if missing else _Held(0, None)
        note = await self._note(connection, strategy, replaced, missing, held)
        # A random order, so that gold pairs cannot be told by their position.
        order = self._rng.permutation(len(leases))
        new = (leases[position] for position in order)
        return LeasedPairs((*own, *new), note, held.first_until)

    def _plan(self, wanted: int, strategy: Strategy | None) -> list[tuple[Strategy, int]]:
        """Draw how many pairs to lease of each strategy."""
        gold = int(self._rng.binomial(wanted, self._policy.gold_share))
        random = int(self._rng.binomial(wanted - gold, self._policy.random_share))
        rest = wanted - gold - random
        shares = MIX if strategy is None else {strategy: 1.0}
        parts = self._rng.multinomial(rest, list(shares.values())).tolist()
        plan = [(Strategy.GOLD, gold), (Strategy.RANDOM, random), *zip(shares, parts, strict=True)]
        order = self._rng.permutation(len(plan))
        return [plan[position] for position in order if plan[position][1] > 0]

    async def _renew(
        self, connection: BoundedConnection, annotator: str, wanted: int
    ) -> list[Lease]:
        values = {"annotator": annotator, "limit": wanted, "lease_s": self._policy.lease_s}
        leases = await _read_leases(await connection.execute(queries.RENEW, values))
        return sorted(leases, key=lambda lease: lease.lease_id)

    async def _lease(
        self,
        connection: BoundedConnection,
        annotator: str,
        plan: Sequence[tuple[Strategy, int]],
    ) -> list[Lease]:
        if not plan:
            return []
        cursor = await connection.execute(
            queries.LEASE,
            {
                "annotator": annotator,
                "strategies": [strategy.value for strategy, _ in plan],
                "counts": [count for _, count in plan],
                "lease_s": self._policy.lease_s,
            },
        )
        return await _read_leases(cursor)

    async def _note(
        self,
        connection: BoundedConnection,
        strategy: Strategy | None,
        replaced: int,
        missing: int,
        held: _Held,
    ) -> str:
        """Describe how the leases differ from what was requested.

        Args:
            connection: In the transaction.
            strategy: What was requested.
            replaced: Pairs that another strategy had to provide.
            missing: Pairs that no strategy could provide.
            held: Pairs that are missing because others hold them.

        Raises:
            PreconditionFailed: If fewer than two images are stored.
        """
        cursor = await connection.execute(queries.POOL_SIZE)
        row = await cursor.fetchone()
        images, indexed = row if row else (0, False)
        if images < 2:
            raise PreconditionFailed(
                f"{images} images are stored and a pair needs two: import images first"
            )
        notes = []
        if not indexed and strategy is not Strategy.RANDOM:
            reason = (
                "the pool is not embedded yet"
                if self._policy.has_embedder
                else "the pool is not embedded because MAGFACE_EMBEDDER_ADDRESS is not set"
            )
            notes.append(f"{reason}: pairs are random, or ones on which annotators are divided")
        if replaced:
            notes.append(f"{replaced} pairs were selected otherwise, for lack of such pairs")
        if missing:
            reason = "more are being prepared, ask again"
            if held.first_until:
                until = held.first_until.astimezone(UTC)
                reason = (
                    f"other annotators hold {held.pairs} more, the first until "
                    f"{until:%Y-%m-%d %H:%M:%S} UTC unless it is labelled before"
                )
            notes.append(f"{missing} fewer than requested: {reason}")
        return "; ".join(notes)


async def _leased_before(connection: BoundedConnection, kept: Mapping[str, Any]) -> LeasedPairs:
    wanted = {"lease_ids": kept["lease_ids"]}
    cursor = await connection.execute(queries.LEASES_AGAIN, wanted)
    # Calls of earlier versions kept no such time.
    until = kept.get("held_until")
    return LeasedPairs(
        tuple(await _read_leases(cursor)),
        kept["note"],
        datetime.fromisoformat(until) if until else None,
    )


async def _held_by_others(connection: BoundedConnection, annotator: str) -> _Held:
    cursor = await connection.execute(queries.HELD_BY_OTHERS, {"annotator": annotator})
    row = await cursor.fetchone()
    return _Held(*row) if row else _Held(0, None)


async def _read_leases(cursor: AsyncCursor) -> list[Lease]:
    return [
        Lease(lease_id, a.hex(), b.hex(), expires_at) async for lease_id, a, b, expires_at in cursor
    ]
