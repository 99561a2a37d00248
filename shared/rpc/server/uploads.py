"""The requests that are being received: bounds on their bytes and on their time."""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Final, NoReturn, TypeAlias, cast

import grpc

from shared.errors import MagFaceError, Overloaded, TimedOut
from shared.heap import trim_heap
from shared.rpc.server.interceptors import Context
from shared.rpc.server.pacing import UploadPace, give_way
from shared.runtime import repeat

# Requests that arrive sooner than this are not counted: nearly all, in less than a millisecond.
_PROMPT_S: Final = 0.01
_SAMPLE_S: Final = 5.0
# gRPC drops an ended message within this time.
_TRIM_S: Final = 0.2
# A sample takes some microseconds for each connection, so it is taken less often with many.
_REST_PER_SAMPLE: Final = 30
# Bytes on the wire that are not part of a message: its prefix and frame, and the call's headers.
_FRAMING_BYTES: Final = 14
_HEADER_BYTES: Final = 128
# TLS sends at most 16 KiB in a record, which it makes this much longer.
_RECORD_BYTES: Final = 2**14
_RECORD_EXCESS: Final = 29
# What must arrive within the time-out, so that a slow link can send a large message.
_PROGRESS_BYTES: Final = 2**20
# A stream whose connection received less than this while it waited holds no large message.
_IDLE_BYTES: Final = 2**20
_RETRY_AFTER_S: Final = 1.0

Received: TypeAlias = Callable[[], Mapping[str, int]]


@dataclass(slots=True, eq=False)
class _Upload:
    """A message that is being received.

    Attributes:
        peer: The connection.
        task: Waits for the message.
        started: Monotonic time at which the server began to wait for it.
        may_idle: Whether the client may keep the server waiting without a limit.
        mark: Bytes that the connection had received and not delivered when this began.
        progress: Bytes that had arrived since then at `progressed`.
        progressed: Monotonic time at which the last `_PROGRESS_BYTES` had arrived.
        refusal: Why the server ends the wait.
    """

    peer: str
    task: asyncio.Task[object]
    started: float
    may_idle: bool
    mark: int | None = None
    progress: int = 0
    progressed: float = 0.0
    refusal: MagFaceError | None = None

    def __post_init__(self) -> None:
        self.progressed = self.started

    def count(self, pending: int, now: float) -> None:
        """Take the bytes that the connection has received and not delivered."""
        arrived = pending - (self.mark or 0)
        if arrived >= self.progress + _PROGRESS_BYTES:
            self.progress, self.progressed = arrived, now

    def refuse(self, error: MagFaceError) -> None:
        self.refusal = error
        self.task.cancel()


class Uploads:
    """Receives the requests of a server, and ends those that are too slow or too many.

    gRPC collects a message until it is complete, and tells neither its size nor how much of it
    has arrived. So the bytes of unfinished messages are taken from the connection: what it has
    received less what it has delivered since the oldest of its unfinished messages began, and at
    most the largest message for each of them. When the sum is above the budget, the connection
    with most bytes loses its oldest message, until it is not. Messages that arrive promptly are
    never refused. Connections that send much wait for their turn before each message.

    It belongs to the loop's thread.

    Args:
        max_bytes: Most bytes of unfinished messages and of those that streams hold.
        timeout_s: Longest time in which a message or a further MiB of it must arrive, in seconds.
        max_message_bytes: Largest message.
        held: Gives the bytes that streams hold.
        tls: Whether the connections use TLS, whose own bytes are not part of a message either.
        tokens: Whether calls carry a token, which is longer than all else in their headers.
    """

    def __init__(
        self,
        max_bytes: int,
        timeout_s: float,
        max_message_bytes: int,
        held: Callable[[], int],
        *,
        tls: bool = False,
        tokens: bool = False,
    ) -> None:
        self._tls = tls
        self._tokens = tokens
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._max_message_bytes = max_message_bytes
        self._held = held
        self._pace = UploadPace()
        self._waiting: dict[_Upload, None] = {}
        self._delivered: defaultdict[str, int] = defaultdict(int)
        self._pending: dict[str, int] = {}
        self._sampled = 0.0
        self._pause_s = _PROMPT_S
        self._trimming: asyncio.Task[None] | None = None

    async def read(
        self, context: Context, peer: str, *, streamed: bool, may_idle: bool
    ) -> bytes | None:
        """Receive the next message of a call.

        Args:
            context: The call.
            peer: Its connection, as `grpc.aio.ServicerContext.peer` names it.
            streamed: Whether the method has a stream of requests.
            may_idle: Whether the time-out applies only while a part of a message is held.

        Returns:
            The message; None when there are no more.

        Raises:
            Overloaded: If it arrives slowly and the budget is spent.
            TimedOut: If it does not arrive in time.
        """
        # Every call of an async function that awaits gRPC runs in a task.
        task = cast("asyncio.Task[object]", asyncio.current_task())
        await self._pace.wait(peer)
        upload = _Upload(peer, task, time.monotonic(), may_idle)
        self._waiting[upload] = None
        try:
            message = await context.read()
        except asyncio.CancelledError:
            if upload.refusal is None:
                raise
            task.uncancel()
            raise upload.refusal from None
        finally:
            del self._waiting[upload]
        if message is grpc.aio.EOF:
            return None
        framing = _FRAMING_BYTES if streamed else _FRAMING_BYTES + self._header_bytes(context)
        if self._tls:
            # Headers and data have records of their own.
            framing += _RECORD_EXCESS * (2 + len(message) // _RECORD_BYTES)
        self._delivered[peer] += len(message) + framing
        self._pace.count(peer, len(message))
        await give_way(len(message))
        return message  # type: ignore[no-any-return]

    def _header_bytes(self, context: Context) -> int:
        if not self._tokens:
            return _HEADER_BYTES
        metadata = context.invocation_metadata() or ()
        return _HEADER_BYTES + sum(len(key) + len(value) for key, value in metadata)

    async def watch(self, received: Received) -> NoReturn:
        """Enforce the bounds until it is cancelled.

        Args:
            received: Gives the bytes received by each connection, as `received_bytes` does.
        """
        await repeat("check of the uploads", partial(self._check, received), every_s=0)

    async def _check(self, received: Received) -> None:
        await asyncio.sleep(self._pause_s)
        now = time.monotonic()
        slow = self._slow(now)
        if slow or now - self._sampled >= _SAMPLE_S:
            began = time.thread_time()
            self._sample(received, slow, now)
            self._sampled = now
            # Not the wall clock: on a busy machine the pauses would grow as uploads arrive faster.
            self._pause_s = max(_PROMPT_S, _REST_PER_SAMPLE * (time.thread_time() - began))
            self._end_late(slow, now)
            self._end_too_many([one for one in slow if one.refusal is None])
        trimming = self._trimming is not None and not self._trimming.done()
        if any(one.refusal for one in slow) and not trimming:
            self._trimming = asyncio.create_task(_trim_soon())

    def _slow(self, now: float) -> list[_Upload]:
        return list(takewhile(lambda one: now - one.started >= _PROMPT_S, self._waiting))

    def _sample(self, received: Received, slow: Sequence[_Upload], now: float) -> None:
        """Take the bytes of each connection, and mark where uploads began that are now slow."""
        before = self._pending
        bytes_of = received()
        self._pace.keep(bytes_of)
        self._delivered = defaultdict(
            int, {peer: self._delivered[peer] for peer in bytes_of if peer in self._delivered}
        )
        self._pending = {
            peer: size - self._delivered.get(peer, 0) for peer, size in bytes_of.items()
        }
        for upload in slow:
            if upload.mark is None and upload.peer in self._pending:
                # A connection that was not in the last sample is new.
                upload.mark = before.get(upload.peer, 0)
            if upload.mark is not None:
                upload.count(self._pending.get(upload.peer, 0), now)

    def _end_late(self, slow: Sequence[_Upload], now: float) -> None:
        for upload in slow:
            if now - upload.progressed < self._timeout_s:
                continue
            if upload.may_idle and self._size([upload]) < _IDLE_BYTES:
                continue
            upload.refuse(
                TimedOut(
                    "a message of the request, or a further MiB of it, did not arrive within"
                    f" {self._timeout_s:g} s, the server's MAGFACE_UPLOAD_TIMEOUT_S"
                )
            )

    def _end_too_many(self, slow: Sequence[_Upload]) -> None:
        by_peer: defaultdict[str, list[_Upload]] = defaultdict(list)
        for upload in slow:
            by_peer[upload.peer].append(upload)
        sizes = {peer: self._size(uploads) for peer, uploads in by_peer.items()}
        excess = sum(sizes.values()) + self._held() - self._max_bytes
        while excess > 0 and sizes:
            peer = max(sizes, key=sizes.__getitem__)
            if sizes[peer] == 0:
                return
            by_peer[peer].pop(0).refuse(self._overloaded())
            before, sizes[peer] = sizes[peer], self._size(by_peer[peer])
            excess -= before - sizes[peer]

    def _size(self, uploads: Sequence[_Upload]) -> int:
        """Give the most bytes that unfinished messages of one connection can have."""
        marks = [upload.mark for upload in uploads if upload.mark is not None]
        if len(marks) < len(uploads):
            # The system does not count the bytes of this connection.
            return self._max_message_bytes * sum(not upload.may_idle for upload in uploads)
        if not uploads:
            return 0
        received = self._pending.get(uploads[0].peer, 0) - min(marks)
        return min(len(uploads) * self._max_message_bytes, max(0, received))

    def _overloaded(self) -> Overloaded:
        return Overloaded(
            f"the requests that are being received take the {self._max_bytes} bytes of the"
            " server's MAGFACE_UPLOAD_BYTES; send this one again",
            _RETRY_AFTER_S,
        )


async def _trim_soon() -> None:
    """Return the memory of messages that were ended to the system."""
    await asyncio.sleep(_TRIM_S)
    await asyncio.to_thread(trim_heap)
