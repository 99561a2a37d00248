"""Tells the registry what this embedder serves, for those who wait until all serve a version."""

import asyncio
import logging
import re
import secrets
import socket
import time
from contextlib import suppress

from services.embedder.models.resident import ResidentModels
from services.embedder.rollout.shadow import Shadow
from services.embedder.rollout.swapper import Swapper
from shared.errors import MagFaceError
from shared.registry.heartbeats import HEARTBEAT_S, Replica, remove_replica, write_replica
from shared.storage.objects import ObjectStore

_log = logging.getLogger(__name__)


async def keep_announced(
    objects: ObjectStore,
    models: ResidentModels,
    swapper: Swapper,
    shadow: Shadow,
    interval_s: float,
) -> None:
    """Write heartbeats until cancelled, then take the last one back.

    Args:
        objects: Where the registry is.
        models: Says what serves.
        swapper: Says which decision that follows, and what went wrong.
        shadow: Says how the candidate does, if one is tried.
        interval_s: Seconds between two looks at whether there is something new to tell.
    """
    instance = _name()
    told, told_at, beat = None, 0.0, 0
    try:
        while True:
            serving, report = models.serving_version or "", shadow.report
            # The candidate's figures are news all the time, and wait for the next beat.
            tried = report.model_version, report.error
            now = (serving, swapper.generation, swapper.swap_error, tried)
            if now != told or time.monotonic() - told_at >= HEARTBEAT_S:
                beat += 1
                replica = Replica(
                    instance=instance,
                    beat=beat,
                    model_version=serving,
                    generation=swapper.generation,
                    swap_error=swapper.swap_error,
                    shadow_version=report.model_version,
                    shadow_pairs=report.pairs,
                    shadow_agreement=report.agreement,
                    shadow_similarity_shift=report.similarity_shift,
                    shadow_error=report.error,
                )
                try:
                    await asyncio.to_thread(write_replica, objects, replica)
                    told = now
                except MagFaceError as failure:
                    _log.debug("the heartbeat waits: %s", failure)
                told_at = time.monotonic()
            await asyncio.sleep(interval_s)
    finally:
        # Whoever waits for all embedders need not find out that this one is gone.
        with suppress(MagFaceError):
            remove_replica(objects, instance)


def _name() -> str:
    host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname()).strip("-")[:100]
    return f"{host or 'embedder'}-{secrets.token_hex(4)}"
