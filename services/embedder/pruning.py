"""Removes local copies of versions that the embedder does not use any longer."""

import asyncio
import logging
from collections.abc import Callable

from shared.registry.versions import VersionStore

_log = logging.getLogger(__name__)


async def keep_pruned(
    versions: VersionStore, in_use: Callable[[], set[str]], interval_s: float
) -> None:
    """Prune whenever what is in use has changed, until cancelled.

    Args:
        versions: Has the local copies.
        in_use: Names of what is loaded or will be; empty as long as nothing serves, since a
            start without the store may need any copy.
        interval_s: Seconds between two looks.
    """
    pruned: set[str] = set()
    while True:
        keep = in_use()
        if keep and keep != pruned:
            pruned = keep
            try:
                removed = await asyncio.to_thread(versions.prune, keep)
            except OSError as error:
                _log.warning("old model versions stay in the cache: %s", error)
            else:
                for version in removed:
                    _log.info("model version %s is removed from the cache", version)
        await asyncio.sleep(interval_s)
