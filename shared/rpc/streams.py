"""Concurrent handling of a stream of requests, with a bound on those in flight."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import TypeVar

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


async def responses_as_completed(
    requests: AsyncIterator[_Request],
    respond: Callable[[_Request], Awaitable[_Response]],
    max_in_flight: int,
) -> AsyncGenerator[list[_Response], None]:
    """Yield the responses to a stream of requests as they complete, in lists that are never empty.

    A list holds the responses that are ready at the same time. No request is read while
    ``max_in_flight`` are in flight. Closing the generator cancels the requests in flight.

    Args:
        requests: The stream of requests.
        respond: Handles one request. An exception from it ends the stream, so an error that
            concerns one request alone must be part of the response.
        max_in_flight: Most requests that are read and not answered.
    """
    slots = asyncio.Semaphore(max_in_flight)
    completed: asyncio.Queue[asyncio.Task[_Response] | None] = asyncio.Queue()
    in_flight: set[asyncio.Task[_Response]] = set()

    def complete(task: asyncio.Task[_Response]) -> None:
        in_flight.discard(task)
        slots.release()
        completed.put_nowait(task)

    async def read() -> None:
        async for request in requests:
            await slots.acquire()
            task = asyncio.ensure_future(respond(request))
            in_flight.add(task)
            task.add_done_callback(complete)

    reader = asyncio.create_task(read())
    reader.add_done_callback(lambda _: completed.put_nowait(None))
    try:
        while not reader.done() or in_flight or not completed.empty():
            ready = [await completed.get()]
            while not completed.empty():
                ready.append(completed.get_nowait())
            if responses := [task.result() for task in ready if task is not None]:
                yield responses
        reader.result()
    finally:
        for task in (reader, *in_flight):
            task.cancel()
