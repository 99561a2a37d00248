"""Checks that a file's tensors can be the weights of a trained network.

Training leaves traces that damage breaks: no two neighbouring weights are equal for long, and a
filter without weights has no variance behind it. Formats without checksums have only these.
"""

import re
from collections.abc import Iterator, Mapping

import torch

from shared.errors import InvalidInput

COUNTER = ".num_batches_tracked"

# 128 bytes of float32. Neighbouring weights are equal by chance once in a hundred at bfloat16.
_EQUAL_RUN = 32
# Sizes that no checkpoint comes near; a flipped high bit of an exponent exceeds them by far.
_MAX_VALUE = 1e6
_MAX_VARIANCE = 1e12
# A filter or an input channel that training has given up decays until float16 rounds it to zero.
_DEAD_WEIGHT = 1e-5
_DEAD_VARIANCE = 1e-4
_NORM_KEY = re.compile(r"(.*?)([^.]+)\.running_var$")
_SHOWN = 8

State = Mapping[str, torch.Tensor]


def listed(title: str, keys: tuple[str, ...]) -> str:
    """Return ``2 title: a, b``, with the first few keys."""
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return f"{len(keys)} {title}: {', '.join(keys[:_SHOWN])}{more}"


def check_finite(name: str, state: State) -> None:
    """Check that all weights are finite floats.

    Raises:
        InvalidInput: Names the tensors that are not.
    """
    bad = tuple(
        key
        for key, tensor in state.items()
        if not key.endswith(COUNTER)
        and not (tensor.is_floating_point() and bool(torch.isfinite(tensor).all()))
    )
    if bad:
        raise InvalidInput(
            "checkpoint", f"{name} has NaN, infinity or non-floats in {listed('tensors', bad)}"
        )


def check_trained(name: str, state: State, *, rounded: bool) -> None:
    """Check that the values are possible in a network; a freshly initialized one passes too.

    Args:
        name: What the file's owner calls it, for the error.
        state: Finite float32 tensors of a complete iResNet, by key.
        rounded: Whether the file is in half precision, so that small variances are zero.

    Raises:
        InvalidInput: Names the tensors and what is wrong with them.
    """
    found = tuple(f"{key} ({why})" for key, why in _impossible(state, rounded=rounded))
    if found:
        raise InvalidInput(
            "checkpoint",
            f"{name} is damaged, its values are impossible in {listed('tensors', found)}; "
            "copy it again from where it was saved",
        )


def _impossible(state: State, *, rounded: bool) -> Iterator[tuple[str, str]]:
    for key, tensor in state.items():
        if key.endswith(COUNTER):
            continue
        if why := _out_of_range(key, tensor) or _constant(key, tensor):
            yield key, why
    for key in state:
        if match := _NORM_KEY.match(key):
            yield from _impossible_norm(state, match[1] + match[2], rounded=rounded)


def _out_of_range(key: str, tensor: torch.Tensor) -> str:
    largest = float(tensor.abs().max())
    if largest > (_MAX_VARIANCE if key.endswith("running_var") else _MAX_VALUE):
        return f"values up to {largest:.3g}"
    return ""


def _constant(key: str, tensor: torch.Tensor) -> str:
    """Find weights that are zero throughout, or equal over a long run."""
    if key.endswith("weight") and not tensor.any():
        return "all zero"
    if tensor.ndim == 1:
        uniform = bool((tensor == tensor[0]).all())
        run = tensor if not uniform else tensor[:1]
    else:
        matrix = tensor.flatten(1).abs()
        limit = matrix.max() * _DEAD_WEIGHT
        rows, columns = matrix.amax(1) > limit, matrix.amax(0) > limit
        run = tensor.flatten(1)[rows][:, columns].flatten()
    if _has_equal_run(run):
        return f"{_EQUAL_RUN} or more equal values in a row"
    return ""


def _has_equal_run(values: torch.Tensor) -> bool:
    if len(values) < _EQUAL_RUN:
        return False
    equal, length = values[1:] == values[:-1], 1
    while length < _EQUAL_RUN - 1 and bool(equal.any()):
        step = min(length, _EQUAL_RUN - 1 - length)
        equal, length = equal[:-step] & equal[step:], length + step
    return bool(equal.any())


def _impossible_norm(state: State, norm: str, *, rounded: bool) -> Iterator[tuple[str, str]]:
    """Compare a normalization's statistics with each other and with the layer before it."""
    variance = state[f"{norm}.running_var"]
    filters = _filters_before(state, norm)
    dead = torch.zeros(len(variance), dtype=torch.bool)
    if filters is not None:
        peaks = filters.flatten(1).abs().amax(1)
        dead = peaks <= peaks.max() * _DEAD_WEIGHT
        lost = int((dead & (variance > variance.median() * _DEAD_VARIANCE)).sum())
        if lost:
            yield f"{norm}.running_var", f"not zero for {lost} filters that have no weights"
    if bool((variance < 0).any()):
        yield f"{norm}.running_var", "negative variance"
    elif (not rounded and bool((variance[~dead] == 0).any())) or not variance.any():
        yield f"{norm}.running_var", "variance of zero"
    if not bool((variance == 1).all()):
        for part in ("running_mean", "bias"):
            if not state[f"{norm}.{part}"].any():
                yield f"{norm}.{part}", "all zero beside trained statistics"


def _filters_before(state: State, norm: str) -> torch.Tensor | None:
    """Return the weights of the layer whose output a normalization gets, if it is one layer."""
    prefix, _, last = norm.rpartition(".")
    before = {"bn2": "conv1", "bn3": "conv2", "1": "0", "features": "fc"}
    if not prefix:
        before = {"bn1": "conv1", "features": "fc"}
    layer = before.get(last)
    return state.get(".".join(filter(None, (prefix, layer, "weight")))) if layer else None
