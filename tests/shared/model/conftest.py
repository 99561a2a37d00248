from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from shared.model.export import export_version
from shared.model.network.checkpoint import load_checkpoint
from tests.shared.model.fixtures.make_parity import FIXTURE
from tests.shared.model.made_weights import State, narrow_state

MATERIAL = Path(__file__).parents[4] / "shared"


def save_checkpoint(path: Path, state: State, prefix: str = "") -> Path:
    """Write weights in the format of MagFace's training script."""
    tensors = {prefix + key: torch.from_numpy(value) for key, value in state.items()}
    content = {"epoch": 25, "arch": "iresnet18", "state_dict": tensors, "model_parallel": 1}
    torch.save(content, path)
    return path


@pytest.fixture(scope="session")
def material() -> Path:
    if not MATERIAL.is_dir():
        pytest.skip(f"{MATERIAL} is absent")
    return MATERIAL


@pytest.fixture(scope="session")
def crops() -> NDArray[np.uint8]:
    with np.load(FIXTURE) as fixture:
        return np.asarray(fixture["images_bgr"])


@pytest.fixture(scope="session")
def narrow_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow iResNet-18 in a file."""
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint") / "narrow.pth", narrow_state())


@pytest.fixture(scope="session")
def narrow_version(
    narrow_checkpoint: Path, crops: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a version made from `narrow_checkpoint`. Copy it before you change it."""
    folder = tmp_path_factory.mktemp("versions") / "iresnet18w4-00000000"
    export_version(
        load_checkpoint(narrow_checkpoint).network,
        folder,
        model_version=folder.name,
        channel_order="bgr",
        threshold=0.3,
        magnitude_quantiles=(1.0, 2.0, 3.0),
        golden_crops=crops,
        job_id="job",
    )
    return folder
