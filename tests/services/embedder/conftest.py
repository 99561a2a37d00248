"""Fixtures: two tiny real model versions, and a registry to publish and promote them in."""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from services.embedder.settings import EmbedderSettings
from shared.model.manifest import ProbabilityCurve
from shared.model.sessions.onnx import OnnxSession
from shared.registry.serving_pointer import ServingPointer, write_pointer
from shared.registry.version_store import VersionStore
from shared.settings import ObjectStoreSettings
from shared.storage.objects import ObjectStore
from tests.services.embedder import broken
from tests.services.embedder.faces import crops
from tests.support.operating_curve import curve_at

VERSIONS = ("iresnet18w4-a", "iresnet18w4-b")


@pytest.fixture(scope="session")
def tiny_versions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of two random narrow networks, exported as the trainer exports."""
    import torch

    from shared.model.export import export_version
    from shared.model.network.iresnet import IResNet, IResNetSpec

    root = tmp_path_factory.mktemp("versions")
    for seed, version in enumerate(VERSIONS):
        torch.manual_seed(seed)
        network = IResNet(IResNetSpec((2, 2, 2, 2), (4, 4, 4, 8, 8), 32)).eval()
        export_version(
            network,
            root / version,
            model_version=version,
            channel_order="bgr",
            threshold=0.25,
            magnitude_quantiles=(0.5, 5.0, 50.0),
            golden_crops=crops(2, seed=100),
            job_id="test",
        )
    return {version: root / version for version in VERSIONS}


@pytest.fixture(scope="session")
def measured_versions(
    tiny_versions: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The tiny versions with operating curves and probabilities."""
    root = tmp_path_factory.mktemp("measured")
    curves = (
        curve_at((1e-1, 0.1), (1e-2, 0.2), (1e-3, 0.3)),
        curve_at((1e-1, 0.4), (1e-2, 0.5), (1e-3, 0.6)),
    )
    return {
        version: broken.renamed(
            folder,
            root / version,
            operating_curve=curve,
            probability=ProbabilityCurve(slope=10.0, intercept=-2.5),
        )
        for (version, folder), curve in zip(tiny_versions.items(), curves, strict=True)
    }


@pytest.fixture(scope="session")
def bare_sessions(tiny_versions: dict[str, Path]) -> dict[str, OnnxSession]:
    """Sessions without a service, for the expected results."""
    return {
        version: OnnxSession(folder / "model.onnx", "bgr", threads=1)
        for version, folder in tiny_versions.items()
    }


class Registry:
    """Publishes and promotes versions and sets operating points, as the trainer does."""

    def __init__(self, settings: ObjectStoreSettings, folder: Path) -> None:
        self.settings = settings
        self.objects = ObjectStore(settings)
        self.versions = VersionStore(self.objects, folder / "trainer-cache")
        self._generation = 0

    def publish(self, folder: Path) -> None:
        self.versions.publish(folder)

    def promote(
        self, version: str, target_fmr: float | None = None, prior: float = 0.5
    ) -> ServingPointer:
        self._generation += 1
        pointer = ServingPointer(
            model_version=version,
            generation=self._generation,
            published_at=datetime.now(UTC),
            target_fmr=target_fmr,
            prior=prior,
        )
        write_pointer(self.objects, pointer)
        return pointer


@pytest.fixture
def registry(object_store_settings: ObjectStoreSettings, tmp_path: Path) -> Registry:
    return Registry(object_store_settings, tmp_path)


@pytest.fixture
def published(registry: Registry, tiny_versions: dict[str, Path]) -> Registry:
    """A registry with both tiny versions, of which the first serves."""
    for folder in tiny_versions.values():
        registry.publish(folder)
    registry.promote(VERSIONS[0])
    return registry


@pytest.fixture
def embedder_settings(
    object_store_settings: ObjectStoreSettings, tmp_path: Path
) -> Iterator[EmbedderSettings]:
    yield EmbedderSettings(
        **object_store_settings.model_dump(),
        cache_dir=tmp_path / "cache",
        engine_threads=1,
        decode_processes=2,
        poll_interval_s=0.1,
    )


@pytest.fixture(scope="session")
def test_crops() -> np.ndarray:
    return crops(8)
