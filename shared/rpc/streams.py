"""Deals with a stream of requests many at a time, and answers as they are done."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

_Request = TypeVar("_Request")
_Answer = TypeVar("_Answer")


async def answers_as_done(
    requests: AsyncIterator[_Request],
    answer: Callable[[_Request], Awaitable[_Answer]],
    at_once: int,
) -> AsyncGenerator[list[_Answer], None]:
    """Yield the answers to a stream of requests, those that are ready together, none empty.

    Nothing is read while as many requests as may be dealt with at once are. Closing the
    generator gives the unanswered ones up.

    Args:
        requests: Ends when there are no more.
        answer: Must not raise for what is wrong with one request alone: it ends the stream.
        at_once: Requests that are read and not answered, at most.
    """
    slots = asyncio.Semaphore(at_once)
    done: asyncio.Queue[asyncio.Task[_Answer] | None] = asyncio.Queue()
    under_way: set[asyncio.Task[_Answer]] = set()

    def finish(task: asyncio.Task[_Answer]) -> None:
        under_way.discard(task)
        slots.release()
        done.put_nowait(task)

    async def read() -> None:
        async for request in requests:
            await slots.acquire()
            task = asyncio.ensure_future(answer(request))
            under_way.add(task)
            task.add_done_callback(finish)

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: done.put_nowait(None))
    try:
        while not reader.done() or under_way or not done.empty():
            ready = [await done.get()]
            while not done.empty():
                ready.append(done.get_nowait())
            if answers := [task.result() for task in ready if task is not None]:
                yield answers
        reader.result()
    finally:
        for task in (reader, *under_way):
            task.cancel()
