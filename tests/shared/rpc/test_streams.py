import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.rpc.budget import ByteBudget
from shared.rpc.streams import BudgetedRequests, ReadNext, responses_as_completed
from tests.support.waiting import let_others_run


def _unbounded(requests: AsyncIterator[int]) -> BudgetedRequests[int]:
    return BudgetedRequests(requests, lambda _: 0, ByteBudget(2**40))


async def test_no_more_is_read_than_may_be_unanswered() -> None:
    read = 0
    gate = asyncio.Event()

    async def requests() -> AsyncIterator[int]:
        nonlocal read
        for read in range(1, 21):
            yield read

    async def answer(number: int, read_next: ReadNext) -> int:
        read_next()
        await gate.wait()
        return number

    answers = responses_as_completed(_unbounded(requests()), answer, max_unanswered=4)
    first = asyncio.ensure_future(anext(answers))
    await let_others_run()
    assert read == 4
    gate.set()
    everything = [*await first, *[one async for part in answers for one in part]]
    assert sorted(everything) == list(range(1, 21))


async def test_a_stream_that_breaks_gives_its_unanswered_labels_up() -> None:
    given_up = 0

    async def requests() -> AsyncIterator[int]:
        yield 1
        yield 2
        raise ConnectionError("cut")

    async def answer(number: int, read_next: ReadNext) -> int:
        read_next()
        nonlocal given_up
        if number == 1:
            return number
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            given_up += 1
            raise
        return number

    answers = responses_as_completed(_unbounded(requests()), answer, max_unanswered=4)
    assert await anext(answers) == [1]
    await answers.aclose()
    await asyncio.sleep(0)
    assert given_up == 1


async def test_what_breaks_a_stream_reaches_the_caller() -> None:
    async def requests() -> AsyncIterator[int]:
        yield 1
        raise ConnectionError("cut")

    async def answer(number: int, read_next: ReadNext) -> int:
        read_next()
        return number

    with pytest.raises(ConnectionError, match="cut"):
        async for answers in responses_as_completed(
            _unbounded(requests()), answer, max_unanswered=4
        ):
            assert answers == [1]


async def numbers(count: int) -> AsyncIterator[int]:
    for number in range(count):
        yield number


async def test_a_request_that_waits_keeps_the_next_one_from_being_read() -> None:
    started = 0
    gate = asyncio.Event()

    async def answer(number: int, read_next: ReadNext) -> int:
        nonlocal started
        started += 1
        await gate.wait()
        read_next()
        return number

    answers = responses_as_completed(_unbounded(numbers(3)), answer, max_unanswered=3)
    first = asyncio.ensure_future(anext(answers))
    await let_others_run()
    assert started == 1
    gate.set()
    assert [*await first, *[one async for part in answers for one in part]] == [0, 1, 2]


async def test_a_request_that_never_lets_the_next_one_be_read_does_so_by_returning() -> None:
    async def answer(number: int, _: ReadNext) -> int:
        return number

    answers = responses_as_completed(_unbounded(numbers(3)), answer, max_unanswered=3)
    assert sorted([one async for part in answers for one in part]) == [0, 1, 2]


async def test_responses_before_an_error_are_given_first() -> None:
    async def answer(number: int, read_next: ReadNext) -> int:
        read_next()
        if number == 2:
            raise ZeroDivisionError
        return number

    seen = []
    with pytest.raises(ZeroDivisionError):
        async for part in responses_as_completed(_unbounded(numbers(4)), answer, max_unanswered=4):
            seen += part
    assert seen == [0, 1]
