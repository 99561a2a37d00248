"""Keeps pairs prepared for the annotators who will ask for them."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np

from services.feedback.pool import index_versions as pool_versions
from services.feedback.pool.index_versions import IndexVersion
from services.feedback.selection import queries
from services.feedback.selection.pool_sampler import PoolSampler, Sample, random_points
from services.feedback.selection.strategies import Caps, Strategy, choose
from shared.storage.postgres import BoundedConnection, Pool, fetch, transaction

_GOLD_PAIRS: Final = 200
_GOLD_VOTES: Final = 3
# A pool that has not changed and gives no more pairs is searched again after so many seconds.
_AGAIN_S: Final = 30.0
# So many labels more, and pairs are chosen anew: as many as `make bench-selection` chooses at once.
_LEARNED: Final = 100
_EVERYBODY: Final = 1_000_000
# How far the caps widen as a pool is used up.
_CAPS: Final = (Caps(), Caps(16, 48), Caps(_EVERYBODY, _EVERYBODY))
_MINED: Final = (Strategy.UNCERTAINTY, Strategy.HARD)


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Pairs of hashes in any order, and how soon they are to be asked about."""

    pairs: Sequence[tuple[bytes, bytes]]
    scores: Sequence[float]
    truths: Sequence[str | None] = ()


@dataclass(frozen=True, slots=True)
class _State:
    """What pairs are prepared from: images, labels, and the latest complete version."""

    images: int
    labels: int
    complete_at: datetime | None


class CandidateQueue:
    """Fills the table of candidates, so that handing out is no more than a look into it.

    Args:
        pool: Connections to a database with the schema `feedback`.
        rng: Draws.
        overlap: How many people are asked about a pair.
        target: How many pairs are kept open for each strategy.
    """

    def __init__(self, pool: Pool, rng: np.random.Generator, *, overlap: int, target: int) -> None:
        self._pool = pool
        self._rng = rng
        self._miner = PoolSampler(pool, rng)
        self._fetch = partial(fetch, pool)
        self._overlap = overlap
        self._target = target
        self._seen: _State | None = None
        self._again_at = 0.0
        self._mined_from: _State | None = None
        self._stale_at = 0.0
        self._used_up: set[Strategy] = set()

    async def round(self) -> None:
        """Remove what is done with, and fill each strategy that is less than half full.

        Raises:
            Unavailable: If the database cannot answer.
            Conflict: If a concurrent change came first; what was added before stays.
        """
        now = asyncio.get_running_loop().time()
        await self._forget_stale(now)
        there, state = await self._look()
        if state != self._seen or now >= self._again_at:
            self._seen, self._again_at = state, now + _AGAIN_S
            self._used_up.clear()
        targets = dict.fromkeys(Strategy, self._target) | {Strategy.GOLD: _GOLD_PAIRS}
        lacking = {
            strategy: target - there.get(strategy, 0)
            for strategy, target in targets.items()
            if 2 * there.get(strategy, 0) < target and strategy not in self._used_up
        }
        if not lacking:
            return
        added = await self._fill(lacking)
        self._used_up |= {one for one, count in lacking.items() if 4 * added[one] < count}

    async def _fill(self, lacking: Mapping[Strategy, int]) -> Counter[Strategy]:
        """Add pairs of each strategy, about as many as it lacks; count them."""
        added: Counter[Strategy] = Counter()
        versions = await pool_versions.complete_versions(self._pool)
        if versions and lacking.keys() & {*_MINED, Strategy.RANDOM}:
            added += await self._mine(versions[0], lacking)
        if uniform := lacking.get(Strategy.RANDOM, 0):
            # Half of them, where the other half can be drawn among neighbours.
            uniform = uniform // 2 if versions else uniform
            added[Strategy.RANDOM] += await self._draw_uniform(uniform)
        if divided := lacking.get(Strategy.DISAGREEMENT, 0):
            added[Strategy.DISAGREEMENT] += await self._ask_about_divided(divided)
        if gold := lacking.get(Strategy.GOLD, 0):
            added[Strategy.GOLD] += await self._add_gold(gold)
        return added

    async def _look(self) -> tuple[dict[Strategy, int], _State]:
        """Remove what is done with; count what is open, and what it is prepared from."""
        async with transaction(self._pool) as connection:
            await connection.execute(queries.TIDY)
            cursor = await connection.execute(queries.OPEN)
            there = {Strategy(strategy): count async for strategy, count in cursor}
            return there, await _state(connection)

    async def _forget_stale(self, now: float) -> None:
        """Make room for better pairs, once another version or more labels tell which they are."""
        async with transaction(self._pool) as connection:
            state = await _state(connection)
            before = self._mined_from or state
            swapped = state.complete_at != before.complete_at
            learned = state.labels >= before.labels + _LEARNED and now >= self._stale_at
            if swapped or learned:
                await connection.execute(queries.FORGET, {"strategies": list(_MINED)})
            elif self._mined_from is not None:
                return
        self._mined_from, self._stale_at = state, now + _AGAIN_S

    async def compare(self, version: IndexVersion) -> None:
        """Prepare pairs that a version and the one before it disagree on, while both are there."""
        others = [
            one
            for one in await pool_versions.complete_versions(self._pool)
            if one.version_id != version.version_id
        ]
        if others:
            sample = await self._miner.sample(version, others[0])
            await self._choose(sample, Strategy.DISAGREEMENT, self._target)

    async def _mine(
        self, version: IndexVersion, lacking: Mapping[Strategy, int]
    ) -> Counter[Strategy]:
        wanted = {one: lacking[one] for one in _MINED if one in lacking}
        if Strategy.RANDOM in lacking:
            wanted[Strategy.RANDOM] = (lacking[Strategy.RANDOM] + 1) // 2
        sample = await self._miner.sample(version)
        return Counter(
            {one: await self._choose(sample, one, count) for one, count in wanted.items()}
        )

    async def _choose(self, sample: Sample, strategy: Strategy, count: int) -> int:
        added = 0
        for caps in _CAPS:
            choice = choose(
                sample.view,
                sample.belief,
                strategy,
                count - added,
                self._rng,
                known=sample.known,
                caps=caps,
            )
            chosen = choice.pairs.tolist()
            sample.known.update((a, b) for a, b in chosen)
            pairs = [(sample.hashes[a], sample.hashes[b]) for a, b in chosen]
            added += await self._add(strategy, _Prepared(pairs, choice.scores.tolist()))
            if 2 * added >= count:
                break
        return added

    async def _draw_uniform(self, count: int) -> int:
        rows = await self._fetch(
            queries.RANDOM_IMAGES, {"points": random_points(self._rng, 2 * count)}
        )
        drawn = [rows[place][0] for place in self._rng.permutation(len(rows))]
        pairs = list(zip(drawn[::2], drawn[1::2], strict=False))
        prepared = _Prepared(pairs, self._rng.random(len(pairs)).tolist())
        return await self._add(Strategy.RANDOM, prepared)

    async def _ask_about_divided(self, count: int) -> int:
        rows = await self._fetch(queries.DIVIDED, {"limit": count})
        pairs = [(a, b) for a, b, _, _ in rows]
        # 1 where as many say the one as the other.
        scores = [min(same, other) / max(same, other) for _, _, same, other in rows]
        return await self._add(Strategy.DISAGREEMENT, _Prepared(pairs, scores), more=1)

    async def _add_gold(self, count: int) -> int:
        rows = await self._fetch(
            queries.GOLD_BY_SUBJECT, {"points": random_points(self._rng, count)}
        )
        rows += await self._fetch(queries.GOLD_BY_VOTES, {"votes": _GOLD_VOTES, "limit": count})
        rows = [rows[place] for place in self._rng.permutation(len(rows))][:count]
        pairs = [(a, b) for a, b, _ in rows]
        truths = ["same" if same else "different" for _, _, same in rows]
        prepared = _Prepared(pairs, self._rng.random(len(pairs)).tolist(), truths)
        return await self._add(Strategy.GOLD, prepared, wanted=_EVERYBODY)

    async def _add(
        self,
        strategy: Strategy,
        prepared: _Prepared,
        *,
        wanted: int | None = None,
        more: int = 0,
    ) -> int:
        """Add pairs that are not there yet; count them."""
        ordered = [(min(pair), max(pair)) for pair in prepared.pairs]
        rows: dict[str, Any] = {
            "strategy": strategy.value,
            "wanted": self._overlap if wanted is None else wanted,
            "more": more,
            "a": [a for a, _ in ordered],
            "b": [b for _, b in ordered],
            "scores": list(prepared.scores),
            "truths": list(prepared.truths) or [None] * len(ordered),
        }
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.ADD, rows)
            return cursor.rowcount


async def _state(connection: BoundedConnection) -> _State:
    cursor = await connection.execute(queries.STATE)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - a sum has a row
    return _State(*row)
