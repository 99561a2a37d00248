"""Candidate queue: keeps pairs prepared for annotators, for each strategy."""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import numpy as np

from services.feedback.pool.index_versions import IndexVersion, list_complete
from services.feedback.selection import queries
from services.feedback.selection.pool_sampler import PoolSample, PoolSampler, random_points
from services.feedback.selection.strategies import Caps, Strategy, choose
from shared.storage.postgres import BoundedConnection, Pool, fetch, transaction

_GOLD_PAIRS: Final = 200
_GOLD_VOTES: Final = 3
# Pause before a pool that gave too few pairs and has not changed is searched again, in seconds.
_RETRY_S: Final = 30.0
# New labels after which pairs are chosen again: the batch size of `make bench-selection`.
_LABELS_PER_CHOICE: Final = 100
_NO_LIMIT: Final = 1_000_000
# The caps are widened in these steps when a pool gives too few pairs.
_CAPS: Final = (Caps(), Caps(16, 48), Caps(_NO_LIMIT, _NO_LIMIT))
# Strategies whose pairs are chosen from a sample by the match probability.
_SAMPLED: Final = (Strategy.UNCERTAINTY, Strategy.HARD)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Pairs of hashes in any order, with their scores and, for gold pairs, their truths."""

    pairs: Sequence[tuple[bytes, bytes]]
    scores: Sequence[float]
    truths: Sequence[str | None] = ()


@dataclass(frozen=True, slots=True)
class _PoolState:
    """What candidates depend on: counts of images and labels, and the last index."""

    images: int
    labels: int
    complete_at: datetime | None


class CandidateQueue:
    """Fills table `candidates`, so that leasing pairs is a lookup.

    Args:
        pool: Connections to a database with the schema `feedback`.
        rng: For all random choices.
        overlap: Annotators per pair.
        target: Open pairs to keep for each strategy.
    """

    def __init__(self, pool: Pool, rng: np.random.Generator, *, overlap: int, target: int) -> None:
        self._pool = pool
        self._rng = rng
        self._sampler = PoolSampler(pool, rng)
        self._fetch = partial(fetch, pool)
        self._overlap = overlap
        self._target = target
        # Strategies that the pool in this state has given too few pairs for.
        self._exhausted: set[Strategy] = set()
        self._exhausted_state: _PoolState | None = None
        self._retry_at = 0.0
        # The state in which sampled pairs were chosen last.
        self._chosen_state: _PoolState | None = None
        self._discard_at = 0.0

    async def refill(self) -> None:
        """Remove finished candidates, and fill each strategy that is less than half full.

        Raises:
            Unavailable: If the database does not answer.
            Conflict: If a concurrent change won; what was added before stays.
        """
        now = asyncio.get_running_loop().time()
        await self._discard_outdated(now)
        open_pairs, state = await self._tidy()
        if state != self._exhausted_state or now >= self._retry_at:
            self._exhausted_state, self._retry_at = state, now + _RETRY_S
            self._exhausted.clear()
        targets = dict.fromkeys(Strategy, self._target) | {Strategy.GOLD: _GOLD_PAIRS}
        missing = {
            strategy: target - open_pairs.get(strategy, 0)
            for strategy, target in targets.items()
            if 2 * open_pairs.get(strategy, 0) < target and strategy not in self._exhausted
        }
        if not missing:
            return
        added = await self._fill(missing)
        self._exhausted |= {one for one, count in missing.items() if 4 * added[one] < count}

    async def add_disagreements(self, version: IndexVersion) -> None:
        """Add pairs on which a version and the previous one disagree, while both are indexed.

        Raises:
            Unavailable: If the database does not answer.
        """
        others = [
            one for one in await list_complete(self._pool) if one.version_id != version.version_id
        ]
        if others:
            sample = await self._sampler.sample(version, others[0])
            await self._add_chosen(sample, Strategy.DISAGREEMENT, self._target)

    async def _discard_outdated(self, now: float) -> None:
        """Remove sampled pairs that nobody holds, after a new version or many new labels."""
        async with transaction(self._pool) as connection:
            state = await _read_state(connection)
            before = self._chosen_state or state
            swapped = state.complete_at != before.complete_at
            labelled = state.labels >= before.labels + _LABELS_PER_CHOICE
            if swapped or (labelled and now >= self._discard_at):
                await connection.execute(queries.DISCARD, {"strategies": list(_SAMPLED)})
            elif self._chosen_state is not None:
                return
        self._chosen_state, self._discard_at = state, now + _RETRY_S

    async def _tidy(self) -> tuple[dict[Strategy, int], _PoolState]:
        """Remove finished candidates; count the open ones, and read the state of the pool."""
        async with transaction(self._pool) as connection:
            await connection.execute(queries.TIDY)
            cursor = await connection.execute(queries.OPEN)
            open_pairs = {Strategy(strategy): count async for strategy, count in cursor}
            return open_pairs, await _read_state(connection)

    async def _fill(self, missing: Mapping[Strategy, int]) -> Counter[Strategy]:
        """Add about as many pairs of each strategy as are missing; returns the numbers added."""
        added: Counter[Strategy] = Counter()
        versions = await list_complete(self._pool)
        if versions and missing.keys() & {*_SAMPLED, Strategy.RANDOM}:
            added += await self._add_sampled(versions[0], missing)
        if uniform := missing.get(Strategy.RANDOM, 0):
            # With an index half of the random pairs are neighbours, from the sample.
            uniform = uniform // 2 if versions else uniform
            added[Strategy.RANDOM] += await self._add_uniform(uniform)
        if divided := missing.get(Strategy.DISAGREEMENT, 0):
            added[Strategy.DISAGREEMENT] += await self._add_divided(divided)
        if gold := missing.get(Strategy.GOLD, 0):
            added[Strategy.GOLD] += await self._add_gold(gold)
        return added

    async def _add_sampled(
        self, version: IndexVersion, missing: Mapping[Strategy, int]
    ) -> Counter[Strategy]:
        counts = {one: missing[one] for one in _SAMPLED if one in missing}
        if Strategy.RANDOM in missing:
            counts[Strategy.RANDOM] = (missing[Strategy.RANDOM] + 1) // 2
        sample = await self._sampler.sample(version)
        return Counter(
            {one: await self._add_chosen(sample, one, count) for one, count in counts.items()}
        )

    async def _add_chosen(self, sample: PoolSample, strategy: Strategy, count: int) -> int:
        """Choose pairs of a sample, and widen the caps until at least half are found."""
        added = 0
        for caps in _CAPS:
            choice = choose(
                sample.view,
                sample.model,
                strategy,
                count - added,
                self._rng,
                known=sample.known,
                caps=caps,
            )
            chosen = choice.pairs.tolist()
            sample.known.update((a, b) for a, b in chosen)
            pairs = [(sample.hashes[a], sample.hashes[b]) for a, b in chosen]
            added += await self._add(strategy, _Candidates(pairs, choice.scores.tolist()))
            if 2 * added >= count:
                break
        return added

    async def _add_uniform(self, count: int) -> int:
        """Add pairs of two random images."""
        rows = await self._fetch(
            queries.RANDOM_IMAGES, {"points": random_points(self._rng, 2 * count)}
        )
        images = [rows[row][0] for row in self._rng.permutation(len(rows))]
        pairs = list(zip(images[::2], images[1::2], strict=False))
        candidates = _Candidates(pairs, self._rng.random(len(pairs)).tolist())
        return await self._add(Strategy.RANDOM, candidates)

    async def _add_divided(self, count: int) -> int:
        """Add pairs on which annotators are divided, for one more annotator."""
        rows = await self._fetch(queries.DIVIDED, {"limit": count})
        pairs = [(a, b) for a, b, _, _ in rows]
        # 1 for a tie.
        scores = [min(same, different) / max(same, different) for _, _, same, different in rows]
        return await self._add(Strategy.DISAGREEMENT, _Candidates(pairs, scores), more=1)

    async def _add_gold(self, count: int) -> int:
        """Add pairs of known truth, by the persons on the images and by unanimous votes."""
        rows = await self._fetch(
            queries.GOLD_BY_SUBJECT, {"points": random_points(self._rng, count)}
        )
        rows += await self._fetch(queries.GOLD_BY_VOTES, {"votes": _GOLD_VOTES, "limit": count})
        rows = [rows[row] for row in self._rng.permutation(len(rows))][:count]
        pairs = [(a, b) for a, b, _ in rows]
        truths = ["same" if same else "different" for _, _, same in rows]
        candidates = _Candidates(pairs, self._rng.random(len(pairs)).tolist(), truths)
        return await self._add(Strategy.GOLD, candidates, wanted=_NO_LIMIT)

    async def _add(
        self,
        strategy: Strategy,
        candidates: _Candidates,
        *,
        wanted: int | None = None,
        more: int = 0,
    ) -> int:
        """Add pairs that are not in the queue.

        Args:
            strategy: How they were selected.
            candidates: The pairs.
            wanted: Annotators per pair; the overlap if None.
            more: Least number of annotators to ask besides those who labelled a pair.

        Returns:
            The number of pairs added.
        """
        ordered = [(min(pair), max(pair)) for pair in candidates.pairs]
        rows: dict[str, Any] = {
            "strategy": strategy.value,
            "wanted": self._overlap if wanted is None else wanted,
            "more": more,
            "a": [a for a, _ in ordered],
            "b": [b for _, b in ordered],
            "scores": list(candidates.scores),
            "truths": list(candidates.truths) or [None] * len(ordered),
        }
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.ADD, rows)
            return cursor.rowcount


async def _read_state(connection: BoundedConnection) -> _PoolState:
    cursor = await connection.execute(queries.STATE)
    row = await cursor.fetchone()
    assert row is not None  # noqa: S101 - an aggregate gives one row
    return _PoolState(*row)
