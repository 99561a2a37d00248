"""Calibration of a model version: its threshold and its curve from similarity to probability."""

import asyncio
import logging
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.feedback.pool.embedder_client import ServingModel
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
        threshold: Similarity at which a version without a curve is taken to have even odds.
        curve: From similarity to probability; None if it was not measured.
    """

    threshold: float
    curve: ProbabilityCurve | None

    def log_odds(self, similarity: NDArray[np.float64]) -> NDArray[np.float64]:
        """Log odds to be genuine at a prior of one half, for similarities of any shape."""
        if self.curve is not None:
            return np.asarray(self.curve.slope * similarity + self.curve.intercept)
        return np.asarray(_DEFAULT_SLOPE * (similarity - self.threshold))


class Calibrations:
    """Reads the calibrations of model versions from the registry, each once.

    The threshold is the version's own. That of `Verify` may be stricter: it keeps the operator's
    target false-match rate, and says nothing of even odds.

    Args:
        objects: The bucket with the registry.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects
        self._found: dict[str, Calibration] = {}

    async def get(self, model: ServingModel) -> Calibration:
        """Give a version's calibration; without a usable manifest, one by its serving threshold.

        Raises:
            Unavailable: If the object store does not answer.
        """
        version = model.model_version
        if version not in self._found:
            self._found[version] = await asyncio.to_thread(self._read, model)
        return self._found[version]

    def _read(self, model: ServingModel) -> Calibration:
        try:
            manifest = published_manifest(self._objects, model.model_version)
        except (NotFound, CorruptData, InvalidInput) as error:
            logger.warning(
                "no calibration for %s, a default slope at its serving threshold is used: %s",
                model.model_version,
                error,
            )
            return Calibration(model.threshold, None)
        return Calibration(manifest.threshold, manifest.probability)
