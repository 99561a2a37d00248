"""Calibrations of model versions, read from the registry."""

import json
from pathlib import Path

from services.feedback.pool.calibration import Calibration, Calibrations
from services.feedback.pool.embedder_client import ServingModel
from shared.model.manifest import ProbabilityCurve
from shared.storage.objects import ObjectStore
from tests.shared.registry.versions import write_version

CURVE = ProbabilityCurve(slope=10.0, intercept=-3.0)


def _publish(
    objects: ObjectStore, folder: Path, version: str, probability: ProbabilityCurve | None
) -> None:
    manifest = write_version(folder / version, version, size=1)
    manifest = manifest.model_copy(update={"probability": probability})
    objects.put(f"models/{version}/manifest.json", manifest.model_dump_json().encode())


async def test_it_is_that_of_the_version_and_not_of_the_operating_point_in_force(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    _publish(object_store, tmp_path, "measured", CURVE)
    _publish(object_store, tmp_path, "plain", None)
    calibrations = Calibrations(object_store)
    # The serving threshold keeps a false-match rate.
    assert await calibrations.get(ServingModel("plain", 8, 0.7)) == Calibration(0.3, None)
    assert await calibrations.get(ServingModel("measured", 8, 0.7)) == Calibration(0.3, CURVE)


async def test_without_a_usable_manifest_it_is_the_serving_threshold(
    object_store: ObjectStore,
) -> None:
    object_store.put("models/damaged/manifest.json", json.dumps({"format": 1}).encode())
    calibrations = Calibrations(object_store)
    for version in ("missing", "damaged"):
        model = ServingModel(version, 8, 0.7)
        assert await calibrations.get(model) == Calibration(0.7, None)
