"""Concurrent handling of a stream of requests, with a bound on those without an answer."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final, Generic, TypeAlias, TypeVar

from shared.rpc.budget import ByteBudget, HeldBytes

# A stream that is idle keeps the bytes for its next request from others for so long.
_PATIENCE_S: Final = 0.25

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")
ReadNext: TypeAlias = Callable[[], None]


class BudgetedRequests(Generic[_Request]):
    """The requests of a stream, each read when the budget has room for one like those before.

    Args:
        requests: The stream of requests.
        size: Gives the bytes of a request.
        budget: The bytes that the requests of all streams may hold.
    """

    def __init__(
        self, requests: AsyncIterator[_Request], size: Callable[[_Request], int], budget: ByteBudget
    ) -> None:
        self._requests = aiter(requests)
        self._size = size
        self._budget = budget
        self._largest = 0

    @property
    def must_wait(self) -> bool:
        """Whether the next request has to wait for bytes that others hold."""
        return not self._budget.has_room(self._expected)

    @property
    def _expected(self) -> int:
        # The first request of a stream may be of any size.
        return self._largest or self._budget.max_bytes

    async def read(self) -> tuple[_Request, HeldBytes]:
        """Read the next request; its bytes are held until they are given back.

        Raises:
            StopAsyncIteration: If there are no more.
        """
        held = await self._budget.take(self._expected)
        forgo = asyncio.get_running_loop().call_later(_PATIENCE_S, held.resize, 0)
        try:
            request = await anext(self._requests)
        except BaseException:
            held.resize(0)
            raise
        finally:
            forgo.cancel()
        size = self._size(request)
        self._largest = max(self._largest, size)
        held.resize(size)
        return request, held


async def responses_as_completed(
    requests: BudgetedRequests[_Request],
    respond: Callable[[_Request, ReadNext], Awaitable[_Response]],
    max_unanswered: int,
    stopping: asyncio.Event | None = None,
) -> AsyncGenerator[list[_Response], None]:
    """Yield the responses to a stream of requests as they complete, in lists that are never empty.

    A list holds the responses that are ready at the same time. No request is read while
    ``max_unanswered`` requests have a response that the caller has not taken, or while the bytes
    of unanswered requests take the budget. When the requests end or fail, those that were read
    are still answered. Closing the generator cancels them.

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

    def start(request: _Request, held: HeldBytes) -> asyncio.Event:
        may_read = asyncio.Event()
        task = asyncio.ensure_future(respond(request, may_read.set))
        in_flight.add(task)
        task.add_done_callback(complete)
        task.add_done_callback(lambda _: may_read.set())
        task.add_done_callback(lambda _: held.resize(0))
        return may_read

    async def read() -> None:
        while True:
            await slots.acquire()
            try:
                # Without a name for the request, an idle stream holds none.
                may_read = start(*await requests.read())
            except StopAsyncIteration:
                return
            await may_read.wait()

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
