"""Loader of MagFace checkpoints; a checkpoint that is not complete is refused."""

import pickle
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors

from shared.errors import InvalidInput
from shared.model.network.iresnet import IResNet, IResNetSpec, spec_from_shapes

_PREFIX = re.compile(r"(.*?)layer[1-4]\.\d+\.")
_REFUSED_CALL = re.compile(r"GLOBAL (\S+)")
_COUNTER = ".num_batches_tracked"
_SHOWN = 8

State = dict[str, torch.Tensor]


def _listed(title: str, keys: tuple[str, ...]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {title}: {', '.join(keys[:_SHOWN])}{more}"


class IncompleteCheckpoint(InvalidInput):
    """The tensors of a file do not match the network.

    Args:
        name: Name of the file.
        missing: Keys of the network that the file lacks.
        unexpected: Keys of the file that the network lacks.
        misshapen: Keys with the shape found and the expected shape.
    """

    def __init__(
        self,
        name: str,
        missing: tuple[str, ...],
        unexpected: tuple[str, ...],
        misshapen: tuple[str, ...],
    ) -> None:
        found = (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        lists = "; ".join(_listed(title, keys) for title, keys in found if keys)
        super().__init__("checkpoint", f"{name} is not a complete iResNet: {lists}")
        self.missing = missing
        self.unexpected = unexpected
        self.misshapen = misshapen


@dataclass(frozen=True)
class Checkpoint:
    """A loaded network.

    Attributes:
        network: In eval mode, float32, on the CPU.
        prefix: Prefix of the keys in the file.
        entries: Number of state_dict entries that were loaded; 925 for iResNet-100.
        head: Key of the classification head, which is not loaded; None if there is none.
    """

    network: IResNet
    prefix: str
    entries: int
    head: str | None

    @property
    def spec(self) -> IResNetSpec:
        return self.network.spec


def _read_pickle(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if refused := _REFUSED_CALL.search(str(error)):
            why = (
                f"calls {refused[1]} when it is loaded, and files that run code are refused; "
                "save its state_dict alone"
            )
        else:
            why = (
                "is neither a torch checkpoint nor a safetensors file; "
                "other pickles can run code and are refused"
            )
        raise InvalidInput("checkpoint", f"{path.name} {why}") from error
    except Exception as error:  # a damaged pickle can fail in any way
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise InvalidInput(
            "checkpoint",
            f"{path.name} cannot be read; it is damaged, truncated or of another type ({reason})",
        ) from error


def _read_state(path: Path) -> State:
    if not path.is_file():
        raise InvalidInput("checkpoint", f"file {path} does not exist")
    with path.open("rb") as file:
        start = file.read(9)
    if not start:
        raise InvalidInput("checkpoint", f"{path.name} is empty")
    content: object
    if start[8:] == b"{":
        try:
            content = load_safetensors(path.read_bytes())
        except SafetensorError as error:
            raise InvalidInput("checkpoint", f"{path.name} cannot be read: {error}") from error
    else:
        content = _read_pickle(path)
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise InvalidInput("checkpoint", f"{path.name} has no state_dict")
    return {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}


def _find_prefix(name: str, state: State) -> str:
    prefixes = Counter(match[1] for key in state if (match := _PREFIX.match(key)))
    if prefixes:
        return prefixes.most_common(1)[0][0]
    found = _listed("tensors", tuple(state)) if state else "no tensors"
    raise InvalidInput("checkpoint", f"{name} has no iResNet (no layer1 … layer4), but {found}")


def _is_head(key: str, tensor: torch.Tensor, embedding_size: int) -> bool:
    return key.endswith("fc.weight") and tensor.ndim == 2 and tensor.shape[1] == embedding_size


def _check_shapes(
    name: str, expected: Mapping[str, torch.Tensor], state: State, outside: list[str]
) -> None:
    missing = tuple(key for key in expected if key not in state)
    unexpected = (*(key for key in state if key not in expected), *outside)
    misshapen = tuple(
        f"{key} {list(state[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    )
    if missing or unexpected or misshapen:
        raise IncompleteCheckpoint(name, missing, unexpected, misshapen)


def _check_values(name: str, state: State) -> None:
    bad = tuple(
        key
        for key, tensor in state.items()
        if not key.endswith(_COUNTER)
        and not (tensor.is_floating_point() and bool(torch.isfinite(tensor).all()))
    )
    if bad:
        raise InvalidInput(
            "checkpoint",
            f"{name} has NaN, infinity or non-floats in {_listed('tensors', bad)}",
        )


def load_checkpoint(path: Path) -> Checkpoint:
    """Load an official checkpoint (``.pth``) or a ``.safetensors`` file, detected by its content.

    Depth, widths and embedding size are derived from the shapes. A prefix of the keys is removed,
    the classification head is skipped, and half precision is converted to float32.

    Raises:
        IncompleteCheckpoint: If an entry is missing, unexpected or of the wrong shape.
        InvalidInput: If the file cannot be read, would run code, has no iResNet, or has values
            that are not finite.
    """
    tensors = _read_state(path)
    prefix = _find_prefix(path.name, tensors)
    state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
    spec = spec_from_shapes({key: tuple(tensor.shape) for key, tensor in state.items()})
    outside = [key for key in tensors if not key.startswith(prefix)]
    heads = [key for key in outside if _is_head(key, tensors[key], spec.embedding_size)]
    with torch.device("meta"):
        network = IResNet(spec)
    unknown = [key for key in outside if key not in heads]
    _check_shapes(path.name, network.state_dict(), state, unknown)
    _check_values(path.name, state)
    whole = {
        key: tensor.to(torch.int64 if key.endswith(_COUNTER) else torch.float32, copy=True)
        for key, tensor in state.items()
    }
    network.load_state_dict(whole, assign=True)
    return Checkpoint(network.eval(), prefix, len(whole), heads[0] if heads else None)
