"""Removal of local copies of model versions that are no longer in use."""

import asyncio
import logging
from collections.abc import Callable

from shared.registry.version_store import VersionStore

_log = logging.getLogger(__name__)


class CachePruner:
    """Prunes the local copies when the set of versions in use changes.

    Args:
        versions: Has the local copies.
        in_use: Gives the names of the versions that are loaded or will be. Nothing is removed
            while it is empty: without a serving version, a start without the store may need any.
    """

    def __init__(self, versions: VersionStore, in_use: Callable[[], set[str]]) -> None:
        self._versions = versions
        self._in_use = in_use
        self._kept: set[str] = set()

    async def prune(self) -> None:
        """Prune if anything has changed since the last successful call."""
        keep = self._in_use()
        if not keep or keep == self._kept:
            return
        for version in await asyncio.to_thread(self._versions.prune, keep):
            _log.info("removed the local copy of model version %s", version)
        self._kept = keep
