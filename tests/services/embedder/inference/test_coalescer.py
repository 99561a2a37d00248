"""When gathered work is handed over: at once where the loop is idle, together where it is not."""

import asyncio
from types import SimpleNamespace

import pytest

from services.embedder.inference import coalescer as burst
from services.embedder.inference.coalescer import Burst
from services.embedder.inference.requests import Work
from tests.services.embedder.standin import numbered_work


class _Taken:
    def __init__(self) -> None:
        self.bursts: list[list[Work]] = []
        self.burst = Burst(self.bursts.append)

    @property
    def sizes(self) -> list[int]:
        return [len(each) for each in self.bursts]


class _Clock:
    """Lets a turn of the loop take a microsecond, and whatever else is done as long as it says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def work(self) -> None:
        self.now += 0.0005


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(burst, "time", SimpleNamespace(perf_counter=clock))
    return clock


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _busy(taken: _Taken, works: list[Work], clock: _Clock) -> None:
    """Let each turn of the loop bring one piece of work, and something else to do."""
    for work in works:
        taken.burst.add(work)
        clock.work()
        await asyncio.sleep(0)


@pytest.mark.usefixtures("clock")
async def test_work_that_comes_alone_is_handed_over_within_a_few_turns():
    taken = _Taken()
    for number in range(5):
        taken.burst.add(numbered_work(number, 1))
        await _turns(3)
    assert taken.sizes == [1] * 5


async def test_what_comes_while_the_loop_is_busy_is_handed_over_together_and_in_order(clock):
    taken = _Taken()
    works = [numbered_work(number, 1) for number in range(3)]
    await _busy(taken, works, clock)
    assert taken.bursts == []
    await _turns(60)
    assert taken.bursts == [works]


@pytest.mark.usefixtures("clock")
async def test_a_large_burst_is_not_kept_waiting():
    taken = _Taken()
    works = [numbered_work(number, 1) for number in range(70)]
    for work in works:
        taken.burst.add(work)
    await _turns(3)
    assert taken.bursts == [works]


async def test_a_loop_that_stays_busy_hands_over_all_the_same(clock):
    taken = _Taken()
    taken.burst.add(numbered_work(0, 1))
    turns = 0
    while not taken.bursts:
        turns += 1
        clock.work()
        await asyncio.sleep(0)
    assert 8 < turns < 20


async def test_after_single_pieces_again_nothing_waits(clock):
    taken = _Taken()
    await _busy(taken, [numbered_work(number, 1) for number in range(3)], clock)
    await _turns(60)
    for number in range(8):
        taken.burst.add(numbered_work(number, 1))
        await _turns(60)
    taken.burst.add(numbered_work(9, 1))
    await _turns(3)
    assert taken.sizes[-1] == 1 and len(taken.bursts) == 10
