"""When gathered work is handed over: at once where the loop is idle, together where it is not."""

import asyncio
import time

from services.embedder.burst import Burst
from services.embedder.work import Work
from tests.embedder.standin import numbered_work


class _Taken:
    def __init__(self) -> None:
        self.bursts: list[list[Work]] = []
        self.burst = Burst(self.bursts.append)

    @property
    def sizes(self) -> list[int]:
        return [len(each) for each in self.bursts]


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _work() -> None:
    end = time.perf_counter() + 0.0005
    while time.perf_counter() < end:
        pass


async def _busy(taken: _Taken, works: list[Work]) -> None:
    """Let each turn of the loop bring one piece of work, and something else to do."""
    for work in works:
        taken.burst.add(work)
        _work()
        await asyncio.sleep(0)


async def test_work_that_comes_alone_is_handed_over_within_a_few_turns():
    taken = _Taken()
    for number in range(5):
        taken.burst.add(numbered_work(number, 1))
        await _turns(3)
    assert taken.sizes == [1] * 5


async def test_what_comes_while_the_loop_is_busy_is_handed_over_together_and_in_order():
    taken = _Taken()
    works = [numbered_work(number, 1) for number in range(3)]
    await _busy(taken, works)
    await asyncio.sleep(0.05)
    assert taken.bursts == [works]


async def test_a_large_burst_is_not_kept_waiting():
    taken = _Taken()
    works = [numbered_work(number, 1) for number in range(70)]
    for work in works:
        taken.burst.add(work)
    await _turns(3)
    assert taken.bursts == [works]


async def test_a_loop_that_stays_busy_hands_over_all_the_same():
    taken = _Taken()
    taken.burst.add(numbered_work(0, 1))
    started = time.perf_counter()
    while not taken.bursts:
        _work()
        await asyncio.sleep(0)
    assert time.perf_counter() - started < 1


async def test_after_single_pieces_again_nothing_waits():
    taken = _Taken()
    await _busy(taken, [numbered_work(number, 1) for number in range(3)])
    await asyncio.sleep(0.05)
    for number in range(8):
        taken.burst.add(numbered_work(number, 1))
        await asyncio.sleep(0.01)
    taken.burst.add(numbered_work(9, 1))
    await _turns(3)
    assert taken.sizes[-1] == 1 and len(taken.bursts) == 10
