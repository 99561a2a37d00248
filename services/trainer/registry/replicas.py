"""Which embedders live, and whether all of them serve what was decided."""

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from services.trainer.registry.shadow import ShadowReport, sum_reports
from services.trainer.registry.versions import Serving
from shared.errors import CorruptData, MagFaceError
from shared.registry.heartbeats import Replica, read_replicas, remove_replica
from shared.registry.shadow_pointer import read_shadow
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

_LOOK_S = 0.5
# Three heartbeats and a slow store.
_SILENT_S = 8.0
_FORGOTTEN_S = 120.0


@dataclass(frozen=True)
class Rollout:
    """A serving decision, and the embedders that live, by name.

    Attributes:
        serving: None before the first promotion.
        candidate: The version that the embedders are to try; empty when that is none.
    """

    serving: Serving | None
    replicas: tuple[Replica, ...]
    candidate: str = ""

    @property
    def complete(self) -> bool:
        """Whether at least one embedder lives and all of them follow the decision."""
        return (
            self.serving is not None
            and bool(self.replicas)
            and all(replica.generation == self.serving.generation for replica in self.replicas)
        )

    @property
    def shadow(self) -> ShadowReport | None:
        """What was found of the candidate; None without one, also while it serves itself."""
        serving = self.serving.model_version if self.serving else ""
        if self.candidate in ("", serving):
            return None
        return sum_reports(self.candidate, serving, self.replicas)


class ReplicaWatch:
    """Reads heartbeats over and over: who sends a new one lives, whatever the clocks say.

    Args:
        objects: Where the registry is.
        clock: Seconds, rising.
    """

    def __init__(self, objects: ObjectStore, clock: Callable[[], float] = time.monotonic) -> None:
        self._objects = objects
        self._clock = clock
        self._heard: dict[str, tuple[Replica, float]] = {}
        self._candidate = ""

    @property
    def candidate(self) -> str:
        """The version that the registry names for the shadow; empty when that is none."""
        return self._candidate

    @property
    def live(self) -> tuple[Replica, ...]:
        """Those heard of lately, by name; after a start, those that only left theirs too."""
        since = self._clock() - _SILENT_S
        return tuple(replica for _, (replica, at) in sorted(self._heard.items()) if at >= since)

    async def run(self) -> None:
        """Listen until cancelled."""
        reading = True
        while True:
            try:
                await asyncio.to_thread(self.listen)
                reading = True
            except MagFaceError as error:
                if reading:
                    logger.warning("the embedders' heartbeats cannot be read: %s", error)
                reading = False
            await asyncio.sleep(_LOOK_S)

    def listen(self) -> None:
        """Read all heartbeats once, and remove those of embedders that are long gone.

        Raises:
            Unavailable: If the store cannot be reached.
        """
        now, before = self._clock(), self._heard
        heard = {}
        for replica in read_replicas(self._objects):
            known, at = before.get(replica.instance, (None, now))
            heard[replica.instance] = (replica, at if replica == known else now)
        self._heard = heard
        self._candidate = self._read_candidate()
        for instance, (_, at) in heard.items():
            if now - at > _FORGOTTEN_S:
                remove_replica(self._objects, instance)

    def _read_candidate(self) -> str:
        try:
            pointer = read_shadow(self._objects)
        except CorruptData as error:
            logger.debug("the embedders try no version: %s", error)
            return ""
        return pointer.model_version if pointer else ""
