"""Reads what the registry says of a model version."""

import asyncio
import logging

from shared.errors import CorruptData, InvalidInput, NotFound
from shared.model.manifest import ProbabilityCurve
from shared.registry.versions import published_manifest
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)


class Curves:
    """Gives the probability curves of model versions, each read once."""

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._known: dict[str, ProbabilityCurve | None] = {}

    async def of(self, model_version: str) -> ProbabilityCurve | None:
        """Give a version's curve; None where it has none, or its manifest cannot be used.

        Raises:
            Unavailable: If the object store cannot be reached.
        """
        if model_version not in self._known:
            self._known[model_version] = await asyncio.to_thread(self._read, model_version)
        return self._known[model_version]

    def _read(self, model_version: str) -> ProbabilityCurve | None:
        try:
            return published_manifest(self._objects, model_version).probability
        except (NotFound, CorruptData, InvalidInput) as error:
            logger.warning("no curve for %s: %s", model_version, error)
            return None
