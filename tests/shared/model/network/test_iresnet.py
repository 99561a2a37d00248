import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from shared.errors import InvalidInput
from shared.model.network.checkpoint import load_checkpoint
from shared.model.network.iresnet import IResNet, IResNetSpec, spec_from_shapes
from shared.model.sessions.torch import TorchSession
from tests.shared.model.conftest import save_checkpoint
from tests.shared.model.fixtures.make_parity import FIXTURE
from tests.shared.model.made_weights import (
    LAYOUTS,
    NARROW,
    NARROW_EMBEDDING,
    State,
    made_state,
    narrow_state,
    official_shapes,
)
from tests.shared.model.reference import forward

WIDE = (64, 128, 256, 512)


def relative_error(got: NDArray[np.floating], want: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


def run_saved(state: State, folder: Path, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    network = load_checkpoint(save_checkpoint(folder / "x.pth", state, "features.module.")).network
    return TorchSession(network, "bgr").run(crops)


@pytest.mark.parametrize("architecture", LAYOUTS)
def test_outputs_equal_those_of_an_independent_network(architecture: str, tmp_path: Path) -> None:
    with np.load(FIXTURE) as fixture:
        got = run_saved(narrow_state(architecture), tmp_path, fixture["images_bgr"])
        assert relative_error(got, fixture[architecture]) < 1e-5


def test_the_fixture_is_what_its_script_makes(crops: NDArray[np.uint8]) -> None:
    scaled = crops.transpose(0, 3, 1, 2) / 255
    with np.load(FIXTURE) as fixture:
        features = forward(narrow_state(), LAYOUTS["iresnet18"], scaled)
        assert relative_error(fixture["iresnet18"], features) < 1e-6


@pytest.mark.parametrize(
    ("architecture", "entries"),
    [("iresnet18", 187), ("iresnet34", 331), ("iresnet50", 475), ("iresnet100", 925)],
)
def test_keys_and_shapes_are_the_official_ones(architecture: str, entries: int) -> None:
    official = official_shapes(LAYOUTS[architecture], WIDE, 512)
    with torch.device("meta"):
        network = IResNet(IResNetSpec(LAYOUTS[architecture]))
    ours = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert list(ours.items()) == list(official.items())
    assert len(ours) == entries


def test_constants_are_the_official_ones() -> None:
    network = IResNet(IResNetSpec((2, 2, 2, 2), (4, *NARROW), NARROW_EMBEDDING))
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert len(norms) == 31
    assert {(norm.eps, norm.momentum) for norm in norms} == {(2e-5, 0.9)}
    assert network.dropout.p == 0.4


@pytest.mark.parametrize("architecture", LAYOUTS)
@pytest.mark.parametrize(("widths", "suffix"), [(WIDE, ""), ((16, 32, 64, 128), "w16")])
def test_depth_width_and_embedding_size_are_read_from_shapes(
    architecture: str, widths: tuple[int, ...], suffix: str
) -> None:
    spec = spec_from_shapes(official_shapes(LAYOUTS[architecture], widths, 256))
    assert spec.blocks == LAYOUTS[architecture]
    assert spec.widths == (widths[0], *widths)
    assert spec.embedding_size == 256
    assert spec.name == architecture + suffix


def test_a_depth_that_nobody_publishes_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"\(3, 14, 30, 3\) blocks.*iResNet-100"):
        spec_from_shapes(official_shapes((3, 14, 30, 3), NARROW, 32))


@pytest.mark.material
@pytest.mark.parametrize("architecture", LAYOUTS)
def test_keys_equal_the_official_list(architecture: str, material: Path) -> None:
    listed = json.loads((material / "golden/iresnet_state.json").read_text())[architecture]
    official = official_shapes(LAYOUTS[architecture], WIDE, 512)
    assert [(key, tuple(shape)) for key, shape in listed] == list(official.items())


@pytest.mark.material
@pytest.mark.parametrize(
    "architecture",
    ["iresnet18", "iresnet34", "iresnet50", pytest.param("iresnet100", marks=pytest.mark.slow)],
)
def test_outputs_equal_the_official_networks(
    architecture: str, material: Path, tmp_path: Path
) -> None:
    state = made_state(official_shapes(LAYOUTS[architecture], WIDE, 512))
    with np.load(material / "golden/parity.npz") as golden:
        got = run_saved(state, tmp_path, golden["images_bgr"])
        want = golden[architecture]
    assert relative_error(got, want) < 1e-4
    assert np.abs(got - want).max() / np.abs(want).max() < 1e-4


@pytest.mark.slow
@pytest.mark.material
def test_the_independent_network_is_the_official_one(material: Path) -> None:
    blocks = LAYOUTS["iresnet18"]
    with np.load(material / "golden/parity.npz") as golden:
        scaled = golden["images_bgr"][:1].transpose(0, 3, 1, 2) / 255
        got = forward(made_state(official_shapes(blocks, WIDE, 512)), blocks, scaled)
        assert relative_error(got, golden["iresnet18"][:1]) < 1e-5
