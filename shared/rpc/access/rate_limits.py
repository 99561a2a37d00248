"""How many calls a caller may make: token buckets for each subject and kind of method."""

import asyncio
import time
from contextvars import ContextVar
from enum import Enum, auto
from functools import cache

from google.protobuf.descriptor_pb2 import MethodOptions

from shared.errors import Overloaded
from shared.rpc.retries import method_path, services
from shared.settings import ServerSettings

_MOST_BUCKETS = 10_000


class MethodKind(Enum):
    """What a call does to stored data, as its ``idempotency_level`` in the contract says."""

    READ = auto()
    CHANGE = auto()


class CallBucket:
    """A token bucket; it belongs to the loop's thread.

    Args:
        subject: Whose calls it counts.
        rate: Calls a second.
        burst_s: Seconds without calls after which it is full.
        setting: Variable with the rate, for the error.
    """

    def __init__(self, subject: str, rate: float, burst_s: float, setting: str) -> None:
        self._subject = subject
        self._rate = rate
        self._size = max(1.0, rate * burst_s)
        self._setting = setting
        self._level = self._size
        self._filled = time.monotonic()

    def take(self) -> None:
        """Count a call.

        Raises:
            Overloaded: If the caller has made too many; it tells when the next one may be made.
        """
        if (pause := self._try_take()) > 0:
            raise Overloaded(
                f"{self._subject!r} makes more than {self._rate:g} calls a second, the server's"
                f" {self._setting}",
                pause,
            )

    async def take_in_turn(self) -> None:
        """Count a message of a stream, as soon as there is room for it."""
        while True:
            if not (pause := self._try_take()):
                return
            await asyncio.sleep(pause)

    @property
    def full(self) -> bool:
        """Whether it says no more than a new one."""
        self._fill()
        return self._level >= self._size

    def _try_take(self) -> float:
        """Take one call out; returns the seconds to wait if there is none."""
        self._fill()
        if self._level < 1:
            return (1 - self._level) / self._rate
        self._level -= 1
        return 0.0

    def _fill(self) -> None:
        now = time.monotonic()
        self._level = min(self._size, self._level + (now - self._filled) * self._rate)
        self._filled = now


class RateLimits:
    """The buckets of all callers.

    Args:
        settings: Calls a second of each kind, and the burst.
    """

    def __init__(self, settings: ServerSettings) -> None:
        self._burst_s = settings.burst_s
        self._rates = {
            MethodKind.READ: (settings.reads_per_s, "MAGFACE_READS_PER_S"),
            MethodKind.CHANGE: (settings.changes_per_s, "MAGFACE_CHANGES_PER_S"),
        }
        self._buckets: dict[tuple[str, MethodKind], CallBucket] = {}

    def bucket(self, subject: str, method: str) -> CallBucket | None:
        """Return the bucket of a caller for a method ``/package.Service/Name``.

        Returns:
            None if there is no limit.
        """
        kind = _kinds().get(method, MethodKind.READ)
        rate, setting = self._rates[kind]
        if rate is None:
            return None
        if (bucket := self._buckets.get((subject, kind))) is None:
            if len(self._buckets) >= _MOST_BUCKETS:
                self._buckets = {key: one for key, one in self._buckets.items() if not one.full}
            bucket = CallBucket(subject, rate, self._burst_s, setting)
            self._buckets[subject, kind] = bucket
        return bucket


_BUCKET: ContextVar[CallBucket | None] = ContextVar("bucket", default=None)


def set_bucket(bucket: CallBucket | None) -> None:
    """Set the bucket that counts the messages of the call that is handled."""
    _BUCKET.set(bucket)


def current_bucket() -> CallBucket | None:
    """Return the bucket of the call that is handled; None without a limit."""
    return _BUCKET.get()


@cache
def _kinds() -> dict[str, MethodKind]:
    return {
        method_path(method): (
            MethodKind.READ
            if method.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS
            else MethodKind.CHANGE
        )
        for service in services()
        for method in service.methods
    }
