"""Pace at which connections with large requests are served, so that others are served between."""

import asyncio
import time
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Final

# The event loop copies a large message several times, which takes it 1 to 2 ns for each byte. A
# link of a gigabit brings so many bytes in a second.
_BYTES_PER_S: Final = 128 * 2**20
# What a connection may send at once before it is paced.
_BURST_BYTES: Final = 8 * 2**20
# A connection that sends no more is not paced after a second.
_MAX_DEBT_BYTES: Final = _BURST_BYTES + _BYTES_PER_S
# The time for smaller messages does not depend on their size.
_SMALL_BYTES: Final = 2**16
# Such a message takes the loop a millisecond.
_LARGE_BYTES: Final = 2**20


@dataclass(slots=True, eq=False)
class _Sender:
    """A connection that sent a large message.

    Attributes:
        debt: Bytes that it sent above the pace, at the time `since`.
        since: Monotonic time.
        last_bytes: Size of its last large message.
        turn: Held by the call of the connection that is next.
    """

    debt: float = 0.0
    since: float = 0.0
    last_bytes: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def debt_at(self, now: float) -> float:
        return max(0.0, self.debt - (now - self.since) * _BYTES_PER_S)


async def give_way(size: int) -> None:
    """Let other calls go on after a step whose time grows with the size of a message.

    Args:
        size: Of the message, in bytes.
    """
    if size > _LARGE_BYTES:
        await asyncio.sleep(0)


class UploadPace:
    """Lets the connections that send more than the pace wait for each other before each message.

    Together they get 128 MiB/s, one message after the other, by turns. A message is not received
    before its turn, so it takes neither memory nor time of the event loop. It belongs to the loop's
    thread.
    """

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}
        self._turn = asyncio.Lock()
        self._free_at = 0.0

    async def wait(self, peer: str) -> None:
        """Wait for the turn of a connection; returns at once unless it sends above the pace."""
        sender = self._senders.get(peer)
        if sender is None or sender.debt_at(time.monotonic()) <= _BURST_BYTES:
            return
        # Each connection has one call that waits for a turn of its own, so that one with many
        # calls gets no more of them.
        async with sender.turn, self._turn:
            await asyncio.sleep(max(0.0, self._free_at - time.monotonic()))
            self._free_at = time.monotonic() + sender.last_bytes / _BYTES_PER_S

    def count(self, peer: str, size: int) -> None:
        """Count a message that a connection sent.

        Args:
            peer: The connection.
            size: Of the message, in bytes.
        """
        if size <= _SMALL_BYTES:
            return
        now = time.monotonic()
        sender = self._senders.setdefault(peer, _Sender())
        sender.debt = min(sender.debt_at(now) + size, _MAX_DEBT_BYTES)
        sender.since, sender.last_bytes = now, size

    def keep(self, peers: Container[str]) -> None:
        """Forget all connections but these."""
        for peer in [peer for peer in self._senders if peer not in peers]:
            del self._senders[peer]
