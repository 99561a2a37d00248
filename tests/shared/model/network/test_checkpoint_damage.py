"""Checkpoints that are damaged, or made to fill the memory."""

import json
import random
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from shared.errors import InvalidInput
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.network.checkpoint import load_checkpoint
from tests.shared.model.made_weights import (
    LAYOUTS,
    State,
    made_state,
    narrow_state,
    official_shapes,
)

Tensors = dict[str, torch.Tensor]


def tensors(state: State) -> Tensors:
    return {key: torch.from_numpy(value) for key, value in state.items()}


def save_legacy(content: object, path: Path) -> None:
    torch.save(content, path, _use_new_zipfile_serialization=False)


WRITERS: dict[str, Callable[[Any, Path], None]] = {
    "zip": torch.save,
    "legacy": save_legacy,
    "safetensors": save_file,
}


@pytest.fixture(scope="module")
def trained() -> Tensors:
    """The bundled network, which is trained, in float32."""
    return load_checkpoint(DEFAULT_CHECKPOINT).network.state_dict()


@pytest.mark.parametrize("filling", [b"\0", b"\x41"])
@pytest.mark.parametrize("size", [512, 65536])
@pytest.mark.parametrize("writer", WRITERS)
def test_a_region_that_was_overwritten_is_refused(
    writer: str, size: int, filling: bytes, trained: Tensors, tmp_path: Path
) -> None:
    path = tmp_path / "stored"
    WRITERS[writer](trained, path)
    whole = path.read_bytes()
    chance = random.Random(size)
    for _ in range(1):
        place = chance.randrange(len(whole) // 4, len(whole) * 3 // 4)
        path.write_bytes(whole[:place] + filling * size + whole[place + size :])
        with pytest.raises(InvalidInput, match="as I call it"):
            load_checkpoint(path, name="as I call it")


@pytest.mark.parametrize(
    ("key", "change", "says"),
    [
        ("layer1.0.bn2.running_var", lambda t: t[:1].zero_(), "variance of zero"),
        ("layer1.0.bn1.running_var", lambda t: t[3:].neg_(), "negative variance"),
        ("bn2.running_var", lambda t: t.mul_(1e20), "values up to"),
        ("layer2.0.conv1.weight", torch.Tensor.zero_, "all zero"),
        ("layer2.0.conv1.weight", lambda t: t[2].zero_(), "1 filters that have no weights"),
        ("layer3.0.bn3.weight", torch.Tensor.zero_, "all zero"),
        ("layer3.0.bn3.running_mean", torch.Tensor.zero_, "beside trained statistics"),
        ("fc.weight", lambda t: t.view(-1)[100:140].fill_(0.5), "equal values in a row"),
        ("conv1.weight", lambda t: t[0, 0, 0, :1].mul_(2.0**100), "values up to"),
    ],
)
def test_values_that_no_training_gives_are_refused(
    key: str, change: Callable[[torch.Tensor], object], says: str, tmp_path: Path
) -> None:
    state = tensors(narrow_state())
    change(state[key])
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match=says) as caught:
        load_checkpoint(tmp_path / "x.pth")
    assert key in caught.value.reason or "filters" in says


def test_a_filter_that_training_gave_up_is_possible(tmp_path: Path) -> None:
    state = tensors(narrow_state())
    state["layer2.0.conv1.weight"][2] = 0
    state["layer2.0.bn2.running_var"][2] = 0
    state["layer2.0.conv2.weight"][:, 2] = 0
    torch.save(state, tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth").entries == 187


def test_a_network_that_was_never_trained_is_possible(tmp_path: Path) -> None:
    network = load_checkpoint(DEFAULT_CHECKPOINT).network
    for module in network.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    torch.save(network.state_dict(), tmp_path / "x.pth")
    assert load_checkpoint(tmp_path / "x.pth").entries == 187


def full_size() -> dict[str, tuple[int, ...]]:
    return official_shapes(LAYOUTS["iresnet100"], (64, 128, 256, 512), 512)


def expanded() -> Tensors:
    return {key: torch.ones(()).expand(shape) for key, shape in full_size().items()}


def sharing() -> Tensors:
    one = torch.randn(512 * 25088)
    return {key: one[: int(np.prod(shape))].view(shape) for key, shape in full_size().items()}


def with_key(value: Callable[[tuple[int, ...]], torch.Tensor]) -> Callable[[], Tensors]:
    def make() -> Tensors:
        return {
            key: value(shape) if shape else torch.zeros(()) for key, shape in full_size().items()
        }

    return make


def sparse(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.sparse_coo_tensor(size=shape)


def quantized(shape: tuple[int, ...]) -> torch.Tensor:
    value = torch.quantize_per_tensor(torch.zeros(1), 0.1, 0, torch.qint8)
    return value.expand(shape)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "says"),
    [
        (expanded, "declares more values than it holds"),
        (sharing, "declares more values than it holds"),
        (with_key(sparse), "sparse tensors"),
        (with_key(quantized), "quantized tensors"),
        (with_key(lambda shape: torch.empty(shape, device="meta")), "meta device"),
        (with_key(lambda shape: torch.zeros(1, dtype=torch.cfloat).expand(shape)), "complex"),
    ],
    ids=["expanded", "sharing", "sparse", "quantized", "meta", "complex"],
)
@pytest.mark.parametrize("writer", ["zip", "legacy"])
def test_a_small_file_never_fills_the_memory(
    make: Callable[[], Tensors], says: str, writer: str, tmp_path: Path
) -> None:
    path = tmp_path / "bomb.pth"
    WRITERS[writer](make(), path)
    process = psutil.Process()
    before = process.memory_info().rss
    with pytest.raises(InvalidInput, match=says):
        load_checkpoint(path)
    assert process.memory_info().rss - before < path.stat().st_size + 50 * 2**20


def call(module: str, name: str, argument: bytes) -> bytes:
    """A pickle that calls a function with one number, as a torch file has it."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + argument + b"\x85R."


@pytest.mark.parametrize(
    "pickled",
    [
        call("builtins", "bytearray", b"\x8a\x05\x00\x00\x00\x00\x01"),
        call("torch", "Tensor", b"J\xff\xff\xff\x7f"),
        call("torch.storage", "UntypedStorage", b"J\xff\xff\xff\x7f"),
    ],
    ids=["bytearray", "Tensor", "UntypedStorage"],
)
def test_a_pickle_that_allocates_is_refused(pickled: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        archive.writestr("x/version", "3\n")
    with pytest.raises(InvalidInput, match=r"calls .* refused"):
        load_checkpoint(path)


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save(tensors(narrow_state()), plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", 8) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(InvalidInput, match="compressed"):
        load_checkpoint(packed)


def safetensors(header: dict[str, object], data: bytes, declared: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", declared or len(text)) + text + data


@pytest.mark.parametrize(
    "content",
    [
        safetensors({}, b"", declared=2**40),
        safetensors(
            {"layer1.0.a": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]}}, b"1234"
        ),
        safetensors(
            {
                name: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
                for name in ("layer1.0.a", "layer1.0.b")
            },
            b"1234",
        ),
    ],
    ids=["header", "offsets", "overlapping"],
)
def test_a_safetensors_file_that_declares_too_much_is_refused(
    content: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_checkpoint(path)


def test_a_network_beyond_the_largest_is_refused(tmp_path: Path) -> None:
    state = made_state(official_shapes((2, 2, 2, 2), (4, 8, 12, 16), 32))
    wide = tensors(state) | {"fc.weight": torch.zeros((150_000, 1000))}
    torch.save(wide, tmp_path / "x.pth")
    with pytest.raises(InvalidInput, match="the limit is"):
        load_checkpoint(tmp_path / "x.pth")
