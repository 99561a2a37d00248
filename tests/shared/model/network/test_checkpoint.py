import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from shared.errors import InvalidInput
from shared.model.network.checkpoint import IncompleteCheckpoint, load_checkpoint
from shared.model.sessions.torch import TorchSession
from tests.shared.model.conftest import save_checkpoint
from tests.shared.model.made_weights import NARROW_EMBEDDING, State, narrow_state

PREFIXES = ("features.module.", "module.features.", "module.", "features.", "")
HEAD = np.ones((614, NARROW_EMBEDDING), np.float32)


@pytest.fixture
def state() -> State:
    return narrow_state()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_every_known_prefix_loads_completely(
    prefix: str, state: State, tmp_path: Path, crops: NDArray[np.uint8]
) -> None:
    bare = load_checkpoint(save_checkpoint(tmp_path / "bare.pth", state))
    loaded = load_checkpoint(save_checkpoint(tmp_path / "x.pth", state, prefix))
    assert (loaded.prefix, loaded.entries, loaded.head) == (prefix, 187, None)
    assert loaded.spec.name == "iresnet18w4"
    assert not loaded.network.training
    want, got = (TorchSession(each.network, "bgr").run(crops) for each in (bare, loaded))
    np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("prefix", "head"),
    [
        ("features.module.", "fc.weight"),
        ("module.features.", "module.fc.weight"),
        ("module.", "fc.weight"),
        ("features.", "fc.weight"),
    ],
)
def test_the_head_is_skipped_and_named(
    prefix: str, head: str, state: State, tmp_path: Path
) -> None:
    file = {prefix + key: value for key, value in state.items()} | {head: HEAD}
    loaded = load_checkpoint(save_checkpoint(tmp_path / "x.pth", file))
    assert (loaded.head, loaded.entries) == (head, 187)
    np.testing.assert_array_equal(loaded.network.fc.weight.detach(), state["fc.weight"])


def test_iresnet100_loads_all_of_its_925_entries(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "x.pth", narrow_state("iresnet100"), "features.module.")
    assert load_checkpoint(path).entries == 925


def test_the_head_never_stands_in_for_a_lost_embedding_layer(state: State, tmp_path: Path) -> None:
    file = {"features.module." + key: value for key, value in state.items()}
    del file["features.module.fc.weight"]
    with pytest.raises(IncompleteCheckpoint) as caught:
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", file | {"fc.weight": HEAD}))
    assert caught.value.missing == ("fc.weight",)
    assert caught.value.unexpected == ()


def test_a_bare_state_dict_loads(state: State, tmp_path: Path) -> None:
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth").entries == 187


def test_half_precision_safetensors_load_as_float32(state: State, tmp_path: Path) -> None:
    half = {key: value.astype(np.float16) for key, value in state.items()}
    save_file(half, tmp_path / "weights.safetensors")
    network = load_checkpoint(tmp_path / "weights.safetensors").network
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    np.testing.assert_array_equal(
        network.conv1.weight.detach(), half["conv1.weight"].astype(np.float32)
    )


def test_missing_unexpected_and_misshapen_keys_are_all_listed(state: State, tmp_path: Path) -> None:
    del state["layer2.0.bn1.bias"]
    state["layer2.0.extra"] = np.zeros(3, np.float32)
    state["layer3.1.conv1.weight"] = np.zeros((5, 12, 3, 3), np.float32)
    with pytest.raises(IncompleteCheckpoint) as caught:
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", state, "module."))
    assert caught.value.missing == ("layer2.0.bn1.bias",)
    assert caught.value.unexpected == ("layer2.0.extra",)
    assert caught.value.misshapen == (
        "layer3.1.conv1.weight [5, 12, 3, 3] instead of [12, 12, 3, 3]",
    )
    for key in ("layer2.0.bn1.bias", "layer2.0.extra", "layer3.1.conv1.weight"):
        assert key in caught.value.reason


def test_a_key_beside_the_network_is_unexpected(state: State, tmp_path: Path) -> None:
    file = {"module." + key: value for key, value in state.items()}
    file["optimizer.lr"] = np.zeros(1, np.float32)
    with pytest.raises(IncompleteCheckpoint, match=r"1 unexpected: optimizer\.lr"):
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", file))


@pytest.mark.parametrize("architecture", ["iresnet18", "iresnet100"])
@pytest.mark.parametrize("stage", [1, 2, 3, 4])
def test_a_lost_last_block_is_missing_and_not_a_shallower_network(
    architecture: str, stage: int, tmp_path: Path
) -> None:
    state = narrow_state(architecture)
    last = max(int(k.split(".")[1]) for k in state if k.startswith(f"layer{stage}."))
    lost = [key for key in state if key.startswith(f"layer{stage}.{last}.")]
    kept = {key: value for key, value in state.items() if key not in lost}
    with pytest.raises(IncompleteCheckpoint) as caught:
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", kept))
    assert caught.value.missing == tuple(lost)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("layer3.", "layer3"),
        (("fc.", "features."), "embedding layer"),
        (("conv1", "bn1", "prelu"), "stem"),
    ],
)
def test_a_lost_part_is_named(lost: Any, named: str, state: State, tmp_path: Path) -> None:
    kept = {key: value for key, value in state.items() if not key.startswith(lost)}
    with pytest.raises(InvalidInput, match=named):
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", kept))


def test_a_file_with_only_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"has no iResNet.*fc\.weight"):
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", {"fc.weight": HEAD}))


class Bomb:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("where", ["beside", "inside"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_bomb_is_refused_and_executes_nothing(
    where: str, zipped: bool, state: State, tmp_path: Path
) -> None:
    marker, path = tmp_path / "executed", tmp_path / "bomb.pth"
    tensors: dict[str, Any] = {key: torch.from_numpy(value) for key, value in state.items()}
    content: dict[str, Any] = {"state_dict": tensors}
    (content if where == "beside" else tensors)["bomb"] = Bomb(marker)
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(InvalidInput, match=r"bomb\.pth calls \S*system .*refused"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_bare_pickle_bomb_is_refused_and_executes_nothing(protocol: int, tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "bomb.pth"
    path.write_bytes(pickle.dumps(Bomb(marker), protocol))
    with pytest.raises(InvalidInput, match=r"bomb\.pth .*run code .*refused"):
        load_checkpoint(path)
    assert not marker.exists()


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.999])
def test_a_truncated_file_is_refused(
    suffix: str, share: float, state: State, tmp_path: Path
) -> None:
    path = tmp_path / f"x.{suffix}"
    if suffix == "pth":
        save_checkpoint(path, state)
    else:
        save_file(state, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(InvalidInput, match=path.name):
        load_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"not a network at all", "is neither"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "is neither"),
        (b"PK\x03\x04" + bytes(100), "cannot be read"),
        (b"\x08\0\0\0\0\0\0\0{nothing", "cannot be read"),
    ],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "face.pth"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match=reason):
        load_checkpoint(path)


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": 3}, {"epoch": 25}, torch.ones(3)])
def test_a_torch_file_without_a_network_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match=r"x\.pth (has no|has NaN)"):
        load_checkpoint(tmp_path / "x.pth")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"nowhere\.pth does not exist"):
        load_checkpoint(tmp_path / "nowhere.pth")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(
    value: float, state: State, tmp_path: Path
) -> None:
    state["layer4.1.conv2.weight"][0, 0, 0, 0] = value
    with pytest.raises(InvalidInput, match=r"NaN.*layer4\.1\.conv2\.weight"):
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", state))


def test_weights_that_are_not_floats_are_refused(state: State, tmp_path: Path) -> None:
    file: dict[str, Any] = {**state, "bn1.bias": np.zeros(4, np.int64)}
    with pytest.raises(InvalidInput, match=r"non-floats in 1 tensors: bn1\.bias"):
        load_checkpoint(save_checkpoint(tmp_path / "x.pth", file))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_a_damaged_file_never_fails_in_another_way(
    data: st.DataObject, narrow_checkpoint: Path, tmp_path: Path
) -> None:
    content = bytearray(narrow_checkpoint.read_bytes())
    # Damage the structure at both ends; a changed weight in the middle cannot be detected.
    edges = st.one_of(st.integers(0, 4096), st.integers(len(content) - 16384, len(content) - 1))
    for place in data.draw(st.lists(edges, min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    try:
        assert load_checkpoint(path).entries == 187
    except InvalidInput as error:
        assert error.field == "checkpoint"
