"""Checkpoints as MagFace's and InsightFace's own scripts, and others, save them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open

from shared.errors import InvalidInput
from shared.model.export import export_version
from shared.model.manifest import MANIFEST_FILE, WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint import (
    IncompleteCheckpoint,
    load_checkpoint,
    load_version_network,
)
from shared.model.sessions.base import Engine
from shared.model.sessions.factory import open_session
from shared.model.sessions.torch import TorchSession
from tests.shared.model.conftest import save_checkpoint
from tests.shared.model.made_weights import LAYOUTS, NARROW_EMBEDDING, State, narrow_state
from tests.shared.model.reference import forward

Tensors = dict[str, torch.Tensor]
CLASSES = 77


def tensors(state: State, prefix: str = "") -> Tensors:
    return {prefix + key: torch.from_numpy(value) for key, value in state.items()}


def arcface_state() -> State:
    """arcface_torch fixes the last BatchNorm's weight at 1."""
    return narrow_state() | {"features.weight": np.ones(NARROW_EMBEDDING, np.float32)}


def save(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_what_magfaces_trainer_saves_loads(tmp_path: Path) -> None:
    network = tensors(narrow_state(), "module.features.")
    head = torch.randn(NARROW_EMBEDDING, CLASSES)
    weights = [torch.nn.Parameter(value) for value in network.values() if value.is_floating_point()]
    optimizer = torch.optim.SGD(weights, 0.1, momentum=0.9, weight_decay=1e-4)
    for weight in weights:
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    content = {
        "epoch": 3,
        "arch": "iresnet18",
        "state_dict": network | {"module.fc.weight": head},
        "optimizer": optimizer.state_dict(),
    }
    loaded = load_checkpoint(save(tmp_path / "00002.pth", content))
    assert (loaded.entries, loaded.head, loaded.warning) == (187, "module.fc.weight", None)
    assert loaded.spec.eps == 2e-5


@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
@pytest.mark.parametrize(
    "wrap",
    [
        lambda network: network,
        lambda network: {"state_dict": network, "epoch": 1},
        lambda network: {"model": network, "optimizer": {"state": {0: torch.ones(3)}}},
        lambda network: {"net": network, "acc": 0.99},
        lambda network: {"checkpoint": {"model": network, "step": 7}},
    ],
    ids=["bare", "state_dict", "model", "net", "nested"],
)
def test_the_network_is_found_in_any_entry(
    wrap: Callable[[Tensors], Any], prefix: str, tmp_path: Path
) -> None:
    loaded = load_checkpoint(save(tmp_path / "x.pth", wrap(tensors(narrow_state(), prefix))))
    assert (loaded.prefix, loaded.entries) == (prefix, 187)


def test_two_networks_in_two_entries_are_refused_with_their_names(tmp_path: Path) -> None:
    network = tensors(narrow_state())
    path = save(tmp_path / "x.pth", {"model": network, "model_ema": {**network}})
    with pytest.raises(InvalidInput, match=r"more than one network.* model: .*model_ema: "):
        load_checkpoint(path)


def test_two_networks_under_two_prefixes_are_refused_with_their_names(tmp_path: Path) -> None:
    both = tensors(narrow_state(), "student.") | tensors(narrow_state(), "teacher.")
    with pytest.raises(InvalidInput, match=r"student\.layer1.*teacher\.layer1"):
        load_checkpoint(save(tmp_path / "x.pth", both))


def test_a_file_without_a_network_says_what_is_there(tmp_path: Path) -> None:
    content = {"epoch": 3, "weights": {"stem.kernel": torch.ones(3)}}
    path = save(tmp_path / "x.pth", content)
    with pytest.raises(
        InvalidInput, match=r"my file\.pth has no iResNet.*epoch, weights.*stem\.kernel"
    ):
        load_checkpoint(path, name="my file.pth")


def test_an_incomplete_file_says_what_is_there(tmp_path: Path) -> None:
    state = narrow_state()
    del state["fc.bias"]
    with pytest.raises(IncompleteCheckpoint, match=r"missing: fc\.bias; the file has 186 tensors"):
        load_checkpoint(save(tmp_path / "x.pth", tensors(state)))


@pytest.mark.parametrize("kept", [0, 3])
def test_the_unused_counters_may_be_missing(kept: int, tmp_path: Path) -> None:
    state = narrow_state()
    counters = [key for key in state if key.endswith("num_batches_tracked")]
    for key in counters[kept:]:
        del state[key]
    loaded = load_checkpoint(save(tmp_path / "x.pth", tensors(state)))
    assert loaded.entries == 187
    assert not any(loaded.network.state_dict()[key] for key in counters)


@pytest.mark.parametrize("shape", [(CLASSES, NARROW_EMBEDDING), (NARROW_EMBEDDING, CLASSES)])
@pytest.mark.parametrize("prefix", ["", "backbone."])
@pytest.mark.parametrize("key", ["head.weight", "kernel", "module.margin.W", "features.head"])
def test_any_head_of_the_right_size_is_skipped(
    key: str, prefix: str, shape: tuple[int, int], tmp_path: Path
) -> None:
    content = tensors(narrow_state(), prefix) | {key: torch.randn(shape)}
    assert load_checkpoint(save(tmp_path / "x.pth", content)).head == key


def test_the_bias_of_a_head_is_skipped_too(tmp_path: Path) -> None:
    head = {
        "head.weight": torch.randn(CLASSES, NARROW_EMBEDDING),
        "head.bias": torch.randn(CLASSES),
    }
    path = save(tmp_path / "x.pth", tensors(narrow_state()) | head)
    assert load_checkpoint(path).head == "head.weight"


@pytest.mark.parametrize(
    "extra",
    [
        {"layer4.1.se.weight": torch.ones(8, NARROW_EMBEDDING)},
        {"a.weight": torch.ones(8, NARROW_EMBEDDING), "b.weight": torch.ones(8, NARROW_EMBEDDING)},
        {"head.weight": torch.ones(8, NARROW_EMBEDDING + 1)},
    ],
    ids=["in a block", "two", "of another size"],
)
def test_what_may_change_the_output_is_no_head(extra: Tensors, tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", tensors(narrow_state()) | extra)
    with pytest.raises(IncompleteCheckpoint) as caught:
        load_checkpoint(path)
    assert caught.value.unexpected == tuple(extra)


def reference(state: State, crops: NDArray[np.uint8], eps: float) -> NDArray[np.float64]:
    images = crops[:1].transpose(0, 3, 1, 2).astype(np.float64) / 255
    return forward(state, LAYOUTS["iresnet18"], images, eps=eps)


@pytest.fixture(scope="module")
def small_variances() -> State:
    """A network of arcface_torch in which the epsilon matters."""
    state = arcface_state()
    return {
        key: value * np.float32(1e-4) if key == "features.running_var" else value
        for key, value in state.items()
    }


@pytest.mark.parametrize("entry", [None, "state_dict_backbone"])
def test_an_arcface_torch_file_is_computed_with_its_own_epsilon(
    entry: str | None, small_variances: State, crops: NDArray[np.uint8], tmp_path: Path
) -> None:
    network = tensors(small_variances, "module." if entry else "")
    content = {entry: network, "epoch": 1} if entry else network
    loaded = load_checkpoint(save(tmp_path / "backbone.pth", content))
    assert loaded.spec.eps == 1e-5
    assert loaded.warning is not None
    for said in ("backbone.pth", "arcface_torch", "1e-05", "2e-05"):
        assert said in loaded.warning
    got = TorchSession(loaded.network, "bgr").run(crops[:1])
    right, wrong = (reference(small_variances, crops, eps) for eps in (1e-5, 2e-5))
    scale = np.abs(right).max()
    assert np.abs(got - right).max() < 1e-3 * scale
    assert np.abs(got - wrong).max() > 1e-2 * scale


def test_an_epsilon_that_is_given_is_used_without_a_warning(tmp_path: Path) -> None:
    path = save(tmp_path / "x.pth", tensors(arcface_state()))
    loaded = load_checkpoint(path, eps=2e-5)
    assert (loaded.spec.eps, loaded.warning) == (2e-5, None)
    trained = save(tmp_path / "y.pth", tensors(narrow_state()))
    assert load_checkpoint(trained, eps=1e-5).spec.eps == 1e-5


def export(state: State, folder: Path, crops: NDArray[np.uint8]) -> Path:
    network = load_checkpoint(save_checkpoint(folder.parent / "x.pth", state)).network
    export_version(
        network,
        folder,
        model_version=folder.name,
        channel_order="bgr",
        threshold=0.3,
        magnitude_quantiles=(1.0, 2.0),
        golden_crops=crops,
        job_id="job",
    )
    return folder


@pytest.fixture(scope="module")
def arcface_version(
    small_variances: State, crops: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return export(small_variances, tmp_path_factory.mktemp("arcface") / "version", crops)


@pytest.mark.parametrize("engine", ["onnxruntime", "torch"])
def test_a_version_keeps_the_epsilon(
    engine: Engine, arcface_version: Path, small_variances: State, crops: NDArray[np.uint8]
) -> None:
    assert read_manifest(arcface_version).batch_norm_eps == 1e-5
    assert load_version_network(arcface_version).spec.eps == 1e-5
    got = open_session(arcface_version, engine).run(crops[:1])
    right = reference(small_variances, crops, 1e-5)
    assert np.abs(got - right).max() < 1e-3 * np.abs(right).max()


def test_the_weights_of_a_version_say_their_epsilon(arcface_version: Path) -> None:
    with safe_open(arcface_version / WEIGHTS_FILE, "np") as file:
        assert file.metadata() == {"batch_norm_eps": "1e-05"}
    loaded = load_checkpoint(arcface_version / WEIGHTS_FILE)
    assert (loaded.spec.eps, loaded.warning) == (1e-5, None)


def test_a_manifest_without_an_epsilon_means_magfaces(narrow_version: Path) -> None:
    assert "batch_norm_eps" not in (narrow_version / MANIFEST_FILE).read_text()
    assert read_manifest(narrow_version).batch_norm_eps == 2e-5
    assert load_version_network(narrow_version).spec.eps == 2e-5
