"""Concurrent handling of a stream of requests, with a bound on those without an answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias, TypeVar

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
ReadNext: TypeAlias = Callable[[], None]


async def responses_as_completed(
    requests: AsyncIterator[_Request],
    respond: Callable[[_Request, ReadNext], Awaitable[_Response]],
    max_unanswered: int,
    stopping: asyncio.Event | None = None,
) -> AsyncGenerator[list[_Response], None]:
    """Yield the responses to a stream of requests as they complete, in lists that are never empty.

    A list holds the responses that are ready at the same time. No request is read while
    ``max_unanswered`` requests have a response that the caller has not taken. When the requests
    end or fail, those that were read are still answered. Closing the generator cancels them.

    Args:
        requests: The stream of requests.
        respond: Handles one request. It calls its second argument once the next request may be
            read; at the latest that happens when it returns. An exception from it ends the
            stream, so an error that concerns one request alone must be part of the response.
        max_unanswered: Most requests that were read and whose responses were not taken.
        stopping: When it is set, no more requests are read.
    """
    slots = asyncio.Semaphore(max_unanswered)
    completed: asyncio.Queue[asyncio.Task[_Response] | None] = asyncio.Queue()
    in_flight: set[asyncio.Task[_Response]] = set()

    def complete(task: asyncio.Task[_Response]) -> None:
        in_flight.discard(task)
        completed.put_nowait(task)

    def start(request: _Request) -> asyncio.Event:
        may_read = asyncio.Event()
        task = asyncio.ensure_future(respond(request, may_read.set))
        in_flight.add(task)
        task.add_done_callback(complete)
        task.add_done_callback(lambda _: may_read.set())
        return may_read

    async def read() -> None:
        iterator = aiter(requests)
        while True:
            await slots.acquire()
            try:
                request = await anext(iterator)
            except StopAsyncIteration:
                return
            await start(request).wait()

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: completed.put_nowait(None))
    stopper = asyncio.create_task(_cancel_when(stopping, reader)) if stopping else None
    try:
        while not reader.done() or in_flight or not completed.empty():
            responses, error = await _take(completed)
            if responses:
                yield responses
                for _ in responses:
                    slots.release()
            if error is not None:
                raise error
        with suppress(asyncio.CancelledError):
            reader.result()
    finally:
        tasks = [task for task in (reader, stopper, *in_flight) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _take(
    completed: asyncio.Queue[asyncio.Task[_Response] | None],
) -> tuple[list[_Response], BaseException | None]:
    """Wait for responses; gives those before the first error, and that error."""
    tasks = [await completed.get()]
    while not completed.empty():
        tasks.append(completed.get_nowait())
    responses: list[_Response] = []
    for task in tasks:
        if task is None:
            continue
        if error := task.exception():
            return responses, error
        responses.append(task.result())
    return responses, None


async def _cancel_when(event: asyncio.Event, task: asyncio.Task[None]) -> None:
    await event.wait()
    task.cancel()
