"""Calibration of a model version: its threshold and its curve from similarity to probability."""

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

logger = logging.getLogger(__name__)

# Slope of the curve of a version that has none.
_DEFAULT_SLOPE: Final = 20.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """How a model version interprets a similarity.

    Attributes:
        threshold: Similarity from which it says SAME.
        curve: From similarity to probability; None if it was not measured.
    """

    threshold: float
    curve: ProbabilityCurve | None

    def log_odds(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log odds to be genuine at a prior of one half, for similarities of any shape."""
        if self.curve is not None:
            return np.asarray(self.curve.slope * similarity + self.curve.intercept)
        return np.asarray(_DEFAULT_SLOPE * (similarity - self.threshold))


class ProbabilityCurves:
    """Reads the probability curves of model versions from the registry, each once.

    Args:
        objects: The bucket with the registry.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._curves: dict[str, ProbabilityCurve | None] = {}

    async def get(self, model_version: str) -> ProbabilityCurve | None:
        """Give a version's curve; None if it has none or its manifest cannot be used.

        Raises:
            Unavailable: If the object store does not answer.
        """
        if model_version not in self._curves:
            self._curves[model_version] = await asyncio.to_thread(self._read, model_version)
        return self._curves[model_version]

    def _read(self, model_version: str) -> ProbabilityCurve | None:
        try:
            return published_manifest(self._objects, model_version).probability
        except (NotFound, CorruptData, InvalidInput) as error:
            logger.warning(
                "no probability curve for %s, a default slope is used: %s", model_version, error
            )
            return None
