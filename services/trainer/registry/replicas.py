"""Rollout of a serving decision: which embedders are live, and what each of them serves."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from services.trainer.registry.shadow import ShadowSummary, summarize_shadow
from services.trainer.registry.versions import ServingDecision
from shared.errors import CorruptData
from shared.registry.heartbeats import Replica, read_replicas, remove_replica
from shared.registry.shadow_pointer import read_shadow
from shared.runtime import repeat
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

_POLL_S = 0.5
# Three heartbeats, and time for a slow store.
_LIVE_S = 8.0
_REMOVE_AFTER_S = 120.0


@dataclass(frozen=True)
class Rollout:
    """A serving decision and the live embedders.

    Attributes:
        serving: The decision in force; None before the first promotion.
        replicas: The live embedders, by name.
        candidate: The version that the embedders evaluate in the shadow; empty if there is none.
    """

    serving: ServingDecision | None
    replicas: tuple[Replica, ...]
    candidate: str = ""

    @property
    def complete(self) -> bool:
        """Whether at least one embedder is live and all live ones follow the decision."""
        return (
            self.serving is not None
            and bool(self.replicas)
            and all(replica.generation == self.serving.generation for replica in self.replicas)
        )

    @property
    def shadow(self) -> ShadowSummary | None:
        """Shadow evaluation of the candidate; None without one, or while the candidate serves."""
        serving = self.serving.model_version if self.serving else ""
        if self.candidate in ("", serving):
            return None
        return summarize_shadow(self.candidate, serving, self.replicas)


class ReplicaWatch:
    """Reads the embedders' heartbeats.

    An embedder is live if it has sent a new heartbeat lately. The time is taken when a heartbeat
    is read, so the clocks of the hosts need not agree.

    Args:
        objects: Where the heartbeats and the shadow pointer are.
        clock: Seconds, rising.
    """

    def __init__(self, objects: ObjectStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._objects = objects
        self._clock = clock
        self._last_seen: dict[str, tuple[Replica, float]] = {}
        self._candidate = ""

    @property
    def candidate(self) -> str:
        """The version that the shadow pointer names; empty if there is none."""
        return self._candidate

    @property
    def live(self) -> tuple[Replica, ...]:
        """The live embedders, by name.

        Just after a start this includes embedders that have ended and left a heartbeat.
        """
        since = self._clock() - _LIVE_S
        return tuple(replica for _, (replica, at) in sorted(self._last_seen.items()) if at >= since)

    async def run(self) -> NoReturn:
        """Read the heartbeats twice a second, until cancelled."""
        await repeat("reading of heartbeats", lambda: asyncio.to_thread(self.read), _POLL_S)

    def read(self) -> None:
        """Read all heartbeats once, and remove those that have not changed for two minutes.

        Raises:
            Unavailable: If the store cannot be reached.
        """
        now, before = self._clock(), self._last_seen
        last_seen = {}
        for replica in read_replicas(self._objects):
            known, at = before.get(replica.instance, (None, now))
            last_seen[replica.instance] = (replica, at if replica == known else now)
        self._last_seen = last_seen
        self._candidate = self._read_candidate()
        for instance, (_, at) in last_seen.items():
            if now - at > _REMOVE_AFTER_S:
                remove_replica(self._objects, instance)

    def _read_candidate(self) -> str:
        try:
            pointer = read_shadow(self._objects)
        except CorruptData as error:
            logger.debug("the shadow pointer is corrupt; no version is evaluated: %s", error)
            return ""
        return pointer.model_version if pointer else ""
