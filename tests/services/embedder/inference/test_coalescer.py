"""Requests are handed over at once by an idle loop, and together by a busy one."""

import asyncio
from types import SimpleNamespace

import pytest

from services.embedder.inference import coalescer as module
from services.embedder.inference.coalescer import Coalescer
from services.embedder.inference.requests import InferenceRequest
from tests.services.embedder.standin import numbered_request


class _Flushed:
    """A coalescer, and the bursts that it handed over."""

    def __init__(self) -> None:
        self.bursts: list[list[InferenceRequest]] = []
        self.coalescer = Coalescer(self.bursts.append)

    @property
    def sizes(self) -> list[int]:
        return [len(each) for each in self.bursts]


class _Clock:
    """A clock on which a turn of the loop takes a microsecond, and `busy` half a millisecond."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1e-6
        return self.now

    def busy(self) -> None:
        self.now += 0.0005


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> _Clock:
    clock = _Clock()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=clock))
    return clock


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def _busy(flushed: _Flushed, requests: list[InferenceRequest], clock: _Clock) -> None:
    """Add one request in each turn of the loop, and let each turn take time."""
    for request in requests:
        flushed.coalescer.add(request)
        clock.busy()
        await asyncio.sleep(0)


@pytest.mark.usefixtures("clock")
async def test_work_that_comes_alone_is_handed_over_within_a_few_turns():
    flushed = _Flushed()
    for number in range(5):
        flushed.coalescer.add(numbered_request(number, 1))
        await _turns(3)
    assert flushed.sizes == [1] * 5


async def test_what_comes_while_the_loop_is_busy_is_handed_over_together_and_in_order(clock):
    flushed = _Flushed()
    requests = [numbered_request(number, 1) for number in range(3)]
    await _busy(flushed, requests, clock)
    assert flushed.bursts == []
    await _turns(60)
    assert flushed.bursts == [requests]


@pytest.mark.usefixtures("clock")
async def test_a_large_burst_is_not_kept_waiting():
    flushed = _Flushed()
    requests = [numbered_request(number, 1) for number in range(70)]
    for request in requests:
        flushed.coalescer.add(request)
    await _turns(3)
    assert flushed.bursts == [requests]


async def test_a_loop_that_stays_busy_hands_over_all_the_same(clock):
    flushed = _Flushed()
    flushed.coalescer.add(numbered_request(0, 1))
    turns = 0
    while not flushed.bursts:
        turns += 1
        clock.busy()
        await asyncio.sleep(0)
    assert 8 < turns < 20


async def test_after_single_pieces_again_nothing_waits(clock):
    flushed = _Flushed()
    await _busy(flushed, [numbered_request(number, 1) for number in range(3)], clock)
    await _turns(60)
    for number in range(8):
        flushed.coalescer.add(numbered_request(number, 1))
        await _turns(60)
    flushed.coalescer.add(numbered_request(9, 1))
    await _turns(3)
    assert flushed.sizes[-1] == 1 and len(flushed.bursts) == 10
