"""Loader of MagFace checkpoints; a checkpoint that is not complete or is damaged is refused."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from shared.errors import CorruptData, InvalidInput
from shared.model.manifest import MAGFACE_EPS, WEIGHTS_FILE, read_manifest
from shared.model.network.checkpoint_file import (
    CheckpointContent,
    read_checkpoint_file,
    walk_mappings,
)
from shared.model.network.iresnet import (
    ARCFACE_TORCH_EPS,
    IResNet,
    IResNetSpec,
    spec_from_shapes,
)
from shared.model.network.weight_checks import (
    COUNTER,
    check_finite,
    check_trained,
    listed,
)

# Twice an iResNet-100 in float32, the largest network that MagFace has.
MAX_NETWORK_BYTES = 512 * 2**20
EPS_METADATA = "batch_norm_eps"

_PREFIX = re.compile(r"(.*?)layer[1-4]\.\d+\.")
_IN_BLOCK = re.compile(r"(^|\.)layer\d+\.\d+\.")
# The entry under which arcface_torch's newer scripts save the network.
_ARCFACE_TORCH_ENTRY = "state_dict_backbone"
_MAX_WIDTH = 8192

State = dict[str, torch.Tensor]


class IncompleteCheckpoint(InvalidInput):
    """The tensors of a file do not match the network.

    Args:
        name: Name of the file.
        missing: Keys of the network that the file lacks.
        unexpected: Keys of the file that the network lacks.
        misshapen: Keys with the shape found and the expected shape.
        there: All keys of the file.
    """

    def __init__(
        self,
        name: str,
        missing: tuple[str, ...],
        unexpected: tuple[str, ...],
        misshapen: tuple[str, ...],
        there: tuple[str, ...],
    ) -> None:
        found = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        lists = "; ".join(listed(title, keys) for title, keys in found if keys)
        super().__init__(
            "checkpoint",
            f"{name} is not a complete iResNet: {lists}; the file has {listed('tensors', there)}",
        )
        self.missing = missing
        self.unexpected = unexpected
        self.misshapen = misshapen


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network.

    Attributes:
        network: In eval mode, float32, on the CPU.
        prefix: Prefix of the keys in the file.
        entries: Number of state_dict entries of the network; 925 for iResNet-100.
        head: Key of the classification head, which is not loaded; None if there is none.
        warning: What a person should know about the file; None if nothing.
    """

    network: IResNet
    prefix: str
    entries: int
    head: str | None
    warning: str | None = None

    @property
    def spec(self) -> IResNetSpec:
        return self.network.spec


@dataclass(frozen=True)
class _Weights:
    """The tensors of the mapping that holds the network.

    Attributes:
        entry: Path of the mapping in the file; empty for the file itself.
        prefix: Prefix of the network's keys.
        state: The network's tensors by key without prefix.
        beside: The other tensors of the mapping by key.
    """

    entry: str
    prefix: str
    state: State
    beside: State


def _tensors(mapping: Mapping[object, object]) -> State:
    return {str(key): value for key, value in mapping.items() if isinstance(value, torch.Tensor)}


def _prefixes(tensors: State) -> list[str]:
    matches = [match for key in tensors if (match := _PREFIX.match(key))]
    return list(dict.fromkeys(match[1] for match in matches))


def _keys_of(content: object) -> str:
    mappings = [(path, mapping) for path, mapping in walk_mappings(content) if mapping]
    if not mappings:
        return f"holds a {type(content).__name__} and no state_dict"
    keys = (
        listed(f"keys in {path}" if path else "keys", tuple(str(key) for key in mapping))
        for path, mapping in mappings[:3]
    )
    return f"has {'; '.join(keys)}"


def _find_weights(name: str, content: object) -> _Weights:
    """Find the one mapping, and in it the one prefix, that holds an iResNet.

    Raises:
        InvalidInput: If there is none, or more than one.
    """
    found = [
        (path, prefix, tensors)
        for path, mapping in walk_mappings(content)
        for tensors in [_tensors(mapping)]
        for prefix in _prefixes(tensors)
    ]
    if not found:
        raise InvalidInput(
            "checkpoint", f"{name} has no iResNet (no layer1 … layer4); it {_keys_of(content)}"
        )
    if len(found) > 1:
        names = tuple(f"{path or 'the file'}: {prefix}layer1…" for path, prefix, _ in found)
        raise InvalidInput(
            "checkpoint",
            f"{name} holds more than one network, {listed('candidates', names)}; "
            "save the state_dict of one of them",
        )
    path, prefix, tensors = found[0]
    state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    beside = {key: t for key, t in tensors.items() if not key.startswith(prefix)}
    return _Weights(path, prefix, state, beside)


def _check_storage(name: str, state: State, file_bytes: int) -> None:
    """Check that the tensors are plain and the file holds their data, before any is read."""
    odd = tuple(
        key
        for key, t in state.items()
        if t.layout is not torch.strided
        or t.device.type != "cpu"
        or t.is_quantized
        or t.is_complex()
    )
    if odd:
        raise InvalidInput(
            "checkpoint",
            f"{name} has sparse, quantized, complex or empty {listed('tensors', odd)}; "
            "save the plain state_dict of the network",
        )
    used: Counter[int] = Counter()
    beyond = []
    for key, tensor in state.items():
        storage = tensor.untyped_storage()
        used[storage.data_ptr()] += tensor.nbytes
        if used[storage.data_ptr()] > storage.nbytes():
            beyond.append(key)
    if beyond or used.total() > file_bytes:
        raise InvalidInput(
            "checkpoint",
            f"{name} declares more values than it holds, {used.total()} bytes in a file of "
            f"{file_bytes} bytes, in {listed('tensors', tuple(beyond or state))}; "
            "save tensors that are not expanded and share no data",
        )
    network_bytes = 4 * sum(tensor.numel() for tensor in state.values())
    if network_bytes > MAX_NETWORK_BYTES:
        raise InvalidInput(
            "checkpoint",
            f"{name} holds a network of {network_bytes} bytes in float32; the limit is "
            f"{MAX_NETWORK_BYTES}, twice an iResNet-100",
        )


def _find_head(weights: _Weights, expected: Mapping[str, torch.Tensor], size: int) -> list[str]:
    """Return the keys of the classification head, [classes, size] or its transpose, and its bias.

    A tensor inside a block is never a head: it changes what the network computes. Nor are two
    matrices: one of them could be another layer.
    """
    others = weights.beside | {
        weights.prefix + key: t for key, t in weights.state.items() if key not in expected
    }
    heads = [
        key
        for key, tensor in others.items()
        if tensor.ndim == 2 and size in tensor.shape and not _IN_BLOCK.search(key)
    ]
    if len(heads) != 1:
        return []
    head = heads[0]
    bias = f"{head.removesuffix('weight')}bias"
    if head.endswith("weight") and bias in others and others[bias].ndim == 1:
        heads.append(bias)
    return heads


def _is_unused(key: str, state: State) -> bool:
    """Whether a key that is missing is the counter of a normalization that is there."""
    return key.endswith(COUNTER) and f"{key.removesuffix(COUNTER)}.weight" in state


def _check_shapes(
    name: str, expected: Mapping[str, torch.Tensor], weights: _Weights, head: list[str]
) -> None:
    state = weights.state
    missing = tuple(key for key in expected if key not in state and not _is_unused(key, state))
    unexpected = (
        *(key for key in state if key not in expected and weights.prefix + key not in head),
        *(key for key in weights.beside if key not in head),
    )
    misshapen = tuple(
        f"{key} {list(state[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    )
    if missing or unexpected or misshapen:
        there = (*(weights.prefix + key for key in state), *weights.beside)
        raise IncompleteCheckpoint(name, missing, unexpected, misshapen, there)


def _choose_eps(
    weights: _Weights, metadata: Mapping[str, str], eps: float | None
) -> tuple[float, str | None]:
    """Return the BatchNorms' epsilon and a warning if it has been inferred.

    The keys of arcface_torch and MagFace are the same. But arcface_torch never trains the last
    BatchNorm's weight, which stays exactly 1, and MagFace does.
    """
    if eps is not None:
        return eps, None
    if EPS_METADATA in metadata:
        return float(metadata[EPS_METADATA]), None
    last = weights.state.get("features.weight")
    wrapped = weights.entry.split(".")[-1] == _ARCFACE_TORCH_ENTRY
    fixed = last is not None and bool((last == 1).all())
    if not (wrapped or fixed):
        return MAGFACE_EPS, None
    sign = f"its entry {_ARCFACE_TORCH_ENTRY}" if wrapped else "features.weight, which is all 1"
    return ARCFACE_TORCH_EPS, (
        f"looks like a checkpoint of arcface_torch by {sign}; its BatchNorms are computed with "
        f"eps {ARCFACE_TORCH_EPS:g} and not with MagFace's {MAGFACE_EPS:g}"
    )


def _assemble(network: IResNet, state: State) -> IResNet:
    network.load_state_dict(state, assign=True)
    return network.eval()


def _complete(expected: Mapping[str, torch.Tensor], state: State) -> State:
    """Copy the network's tensors as float32; counters that the file lacks are zero."""
    return {
        key: torch.zeros((), dtype=torch.int64)
        if key not in state
        else state[key].to(torch.int64 if key.endswith(COUNTER) else torch.float32, copy=True)
        for key in expected
    }


def _read(
    path: Path, name: str, eps: float | None
) -> tuple[_Weights, IResNet, list[str], str | None]:
    """Read a file and check its keys and sizes; the network is on the meta device."""
    content: CheckpointContent = read_checkpoint_file(path, name)
    weights = _find_weights(name, content.value)
    _check_storage(name, weights.state, path.stat().st_size)
    shapes = {key: tuple(tensor.shape) for key, tensor in weights.state.items()}
    used_eps, warning = _choose_eps(weights, content.metadata, eps)
    spec = spec_from_shapes(shapes, used_eps)
    if max(*spec.widths, spec.embedding_size) > _MAX_WIDTH:
        raise InvalidInput("checkpoint", f"{name} has layers wider than {_MAX_WIDTH}")
    with torch.device("meta"):
        network = IResNet(spec)
    head = _find_head(weights, network.state_dict(), spec.embedding_size)
    _check_shapes(name, network.state_dict(), weights, head)
    check_finite(name, {key: weights.state[key] for key in shapes if key in network.state_dict()})
    return weights, network, head, warning


def load_checkpoint(path: Path, *, name: str | None = None, eps: float | None = None) -> Checkpoint:
    """Load a checkpoint (``.pth``) of MagFace or arcface_torch, or a ``.safetensors`` file.

    The format is detected by the content. The network may be the file itself or an entry of it
    such as ``state_dict``. Depth, widths and embedding size are derived from the shapes. A prefix
    of the keys is removed, the classification head is skipped, and half precision is converted to
    float32.

    Args:
        path: The file.
        name: What its owner calls it, for errors; None for the name of the path.
        eps: Epsilon of the BatchNorms; None for the file's own metadata, 1e-5 for a checkpoint of
            arcface_torch, else MagFace's 2e-5.

    Raises:
        IncompleteCheckpoint: If an entry is missing, unexpected or of the wrong shape.
        InvalidInput: If the file cannot be read, would run code, has no iResNet or more than one,
            declares more data than it holds, or has values that no training gives.
    """
    name = name or path.name
    weights, network, head, warning = _read(path, name, eps)
    state = _complete(network.state_dict(), weights.state)
    rounded = any(tensor.dtype is torch.float16 for tensor in weights.state.values())
    check_trained(name, state, rounded=rounded)
    if warning:
        warning = f"{name} {warning}"
    loaded = _assemble(network, state)
    return Checkpoint(loaded, weights.prefix, len(state), head[0] if head else None, warning)


def load_version_network(folder: Path) -> IResNet:
    """Load the network of a model version, with the epsilon that its manifest says.

    Args:
        folder: Folder of the version, whose checksums have been compared with the manifest.

    Raises:
        CorruptData: If the weights do not match the network.
    """
    try:
        path = folder / WEIGHTS_FILE
        weights, network, *_ = _read(path, path.name, read_manifest(folder).batch_norm_eps)
    except InvalidInput as error:
        raise CorruptData(error.reason) from error
    return _assemble(network, _complete(network.state_dict(), weights.state))
