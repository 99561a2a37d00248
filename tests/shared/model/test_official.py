"""End-to-end test with released weights; runs when MAGFACE_CHECKPOINT names the file.

``MAGFACE_CHECKPOINT=magface_epoch_00025.pth .venv/bin/pytest tests/shared/model/test_official.py``
"""

import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.model.export import export_version
from shared.model.image.decode import decode_image
from shared.model.network.checkpoint import load_checkpoint
from shared.model.sessions.base import split_features
from shared.model.sessions.factory import open_session
from shared.settings import ImageLimits


def official_features(toy: Path) -> tuple[list[str], NDArray[np.float32]]:
    rows = [line.split() for line in (toy / "feat.list").read_text().splitlines()]
    return [Path(name).name for name, *_ in rows], np.array([row[1:] for row in rows], np.float32)


@pytest.fixture(scope="module")
def toy(material: Path) -> Path:
    return material / "golden/toy"


@pytest.mark.material
def test_the_official_features_are_read_as_published(toy: Path) -> None:
    names, features = official_features(toy)
    assert len(names) == 10
    _, magnitudes = split_features(features)
    published = [21.779, 22.164, 24.090, 24.401, 25.903, 27.112, 27.413, 28.224, 28.734, 30.247]
    np.testing.assert_allclose(magnitudes, published, atol=1e-3)


@pytest.mark.slow
@pytest.mark.material
@pytest.mark.skipif("MAGFACE_CHECKPOINT" not in os.environ, reason="MAGFACE_CHECKPOINT is not set")
def test_the_released_network_gives_the_published_features(toy: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(Path(os.environ["MAGFACE_CHECKPOINT"]))
    assert (checkpoint.spec.name, checkpoint.entries) == ("iresnet100", 925)
    names, want = official_features(toy)
    crops = np.stack([decode_image((toy / name).read_bytes(), ImageLimits()) for name in names])
    folder = tmp_path / "iresnet100-official"
    export_version(
        checkpoint.network,
        folder,
        model_version=folder.name,
        channel_order="bgr",
        threshold=0.3,
        magnitude_quantiles=(10.0, 40.0),
        golden_crops=crops,
        job_id="official",
    )
    want_embeddings, want_magnitudes = split_features(want)
    for engine in ("onnxruntime", "torch"):
        embeddings, magnitudes = split_features(open_session(folder, engine).run(crops))
        assert (embeddings * want_embeddings).sum(axis=1).min() > 0.999
        np.testing.assert_allclose(magnitudes, want_magnitudes, rtol=1e-2)
