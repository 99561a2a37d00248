"""Heartbeats: reports to the registry which version this embedder serves."""

import asyncio
import re
import secrets
import socket
import time
from contextlib import suppress
from typing import NoReturn

from services.embedder.models.resident import ResidentModels
from services.embedder.rollout.shadow import ShadowEvaluator
from services.embedder.rollout.swapper import Swapper
from shared.errors import MagFaceError
from shared.registry.heartbeats import HEARTBEAT_S, Replica, remove_replica, write_replica
from shared.runtime import repeat
from shared.storage.objects import ObjectStore


class Heartbeat:
    """Writes this embedder's replica record every two seconds, and at each change.

    Args:
        objects: Store of the registry.
        models: The loaded models.
        swapper: Gives the generation that the serving version follows, and the last error.
        shadow: Gives the statistics of the candidate.
    """

    def __init__(
        self,
        objects: ObjectStore,
        models: ResidentModels,
        swapper: Swapper,
        shadow: ShadowEvaluator,
    ) -> None:
        self._objects = objects
        self._models = models
        self._swapper = swapper
        self._shadow = shadow
        self._instance = _instance_name()
        self._written: Replica | None = None
        self._written_at = 0.0
        self._beat = 0

    async def run(self, interval_s: float) -> NoReturn:
        """Write heartbeats until cancelled, then remove the record.

        Args:
            interval_s: Seconds between two checks for a change.
        """
        try:
            await repeat("heartbeat", self._write_if_due, interval_s)
        finally:
            # A rollout that waits for all embedders then need not wait for the record to expire.
            with suppress(MagFaceError):
                remove_replica(self._objects, self._instance)

    async def _write_if_due(self) -> None:
        replica = self._replica()
        due = time.monotonic() - self._written_at >= HEARTBEAT_S
        if due or self._written is None or _state(replica) != _state(self._written):
            self._beat += 1
            await asyncio.to_thread(write_replica, self._objects, replica)
            self._written, self._written_at = replica, time.monotonic()

    def _replica(self) -> Replica:
        stats = self._shadow.stats
        return Replica(
            instance=self._instance,
            beat=self._beat + 1,
            model_version=self._models.serving_version or "",
            generation=self._swapper.generation,
            swap_error=self._swapper.swap_error,
            shadow_version=stats.model_version,
            shadow_pairs=stats.pairs,
            shadow_agreement=stats.agreement,
            shadow_similarity_shift=stats.similarity_shift,
            shadow_error=stats.error,
        )


def _state(replica: Replica) -> tuple[object, ...]:
    """What is written at once when it changes; the candidate's figures wait for the next beat."""
    return (
        replica.model_version,
        replica.generation,
        replica.swap_error,
        replica.shadow_version,
        replica.shadow_error,
    )


def _instance_name() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-")[:100]
    return f"{host or 'embedder'}-{secrets.token_hex(4)}"
