"""Watching objects of the registry by polling."""

import asyncio
from contextlib import asynccontextmanager, suppress

from services.embedder.rollout.registry_watch import ErasureWatcher, watch
from shared.errors import CorruptData, Unavailable
from tests.support.waiting import until


class _Registry:
    def __init__(self) -> None:
        self.value: int | Exception = 0
        self.reads = 0

    def read(self) -> int:
        self.reads += 1
        if isinstance(self.value, Exception):
            raise self.value
        return self.value

    async def some_reads(self) -> None:
        seen = self.reads
        await until(lambda: self.reads >= seen + 3)


@asynccontextmanager
async def _watched(registry: _Registry, watcher: ErasureWatcher):
    task = asyncio.create_task(watch("mark", registry.read, watcher.update, 0.002))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_each_other_mark_makes_forget_once_and_a_smaller_one_too():
    registry, cleared = _Registry(), []
    registry.value = 7
    async with _watched(registry, ErasureWatcher(lambda: cleared.append(registry.value))):
        for value in (7, 9, 8):
            registry.value = value
            await registry.some_reads()
    assert cleared == [7, 9, 8]


async def test_a_mark_set_while_the_registry_was_away_or_damaged_is_noticed_afterwards():
    registry, cleared = _Registry(), []
    async with _watched(registry, ErasureWatcher(lambda: cleared.append(registry.value))):
        await registry.some_reads()
        for number, trouble in enumerate((Unavailable("away"), CorruptData("no mark")), 1):
            registry.value = trouble
            await registry.some_reads()
            assert cleared == list(range(number))
            registry.value = number
            await registry.some_reads()
    assert cleared == [0, 1, 2]


async def test_what_fails_to_forget_is_told_again():
    registry, tries = _Registry(), []

    def clear() -> None:
        tries.append(1)
        if len(tries) < 3:
            raise OSError("not now")

    async with _watched(registry, ErasureWatcher(clear)):
        await until(lambda: len(tries) == 3)
        await registry.some_reads()
    assert len(tries) == 3
