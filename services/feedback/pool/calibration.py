"""Reads what the registry says of a model version."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptData, InvalidInput, NotFound
from shared.model.manifest import ProbabilityCurve
from shared.registry.version_store import published_manifest
from shared.storage.objects import ObjectStore

FloatArray = NDArray[np.float64]

# How steep a version's curve is taken to be where nobody has measured it.
_ASSUMED_SLOPE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """What a model version says a similarity means.

    Attributes:
        threshold: Similarity from which it says SAME.
        curve: From similarity to probability; None where nobody has measured it.
    """

    threshold: float
    curve: ProbabilityCurve | None

    def log_odds(self, similarity: FloatArray) -> FloatArray:
        """Log odds to be genuine at a prior of one half, for similarities of any shape."""
        if self.curve is not None:
            return np.asarray(self.curve.slope * similarity + self.curve.intercept)
        return np.asarray(_ASSUMED_SLOPE * (similarity - self.threshold))


logger = logging.getLogger(__name__)


class ProbabilityCurves:
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
