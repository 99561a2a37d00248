"""Reference implementation of the iResNet in numpy, for comparison with the network under test.

Written from the description of the official network and not from `shared.model.network.iresnet`:
BatchNorm eps 2e-5 (1e-5 in arcface_torch), no activation after the sum, stride in the second
convolution.
"""

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tests.shared.model.made_weights import State

Array = NDArray[np.float64]


def forward(state: State, blocks: tuple[int, ...], images: Array, *, eps: float = 2e-5) -> Array:
    """Features, float64 [N, D], of scaled images, float64 [N, 3, 112, 112], in eval mode."""
    x = _prelu(state, "prelu", _norm(state, eps, "bn1", _conv(state, "conv1", images, 1)))
    for stage, count in enumerate(blocks, 1):
        for block in range(count):
            x = _block(state, eps, f"layer{stage}.{block}", x, 2 if block == 0 else 1)
    x = _norm(state, eps, "bn2", x).reshape(len(x), -1)
    x = x @ state["fc.weight"].T.astype(np.float64) + state["fc.bias"]
    return _norm(state, eps, "features", x)


def _block(state: State, eps: float, name: str, x: Array, stride: int) -> Array:
    out = _conv(state, f"{name}.conv1", _norm(state, eps, f"{name}.bn1", x), 1)
    out = _prelu(state, f"{name}.prelu", _norm(state, eps, f"{name}.bn2", out))
    out = _norm(state, eps, f"{name}.bn3", _conv(state, f"{name}.conv2", out, stride))
    if f"{name}.downsample.0.weight" in state:
        x = _norm(
            state, eps, f"{name}.downsample.1", _conv(state, f"{name}.downsample.0", x, stride)
        )
    return out + x


def _conv(state: State, name: str, x: Array, stride: int) -> Array:
    weight = state[f"{name}.weight"].astype(np.float64)
    size = weight.shape[-1]
    edge = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (edge, edge), (edge, edge)))
    windows = sliding_window_view(padded, (size, size), (2, 3))[:, :, ::stride, ::stride]
    return np.tensordot(windows, weight, ((1, 4, 5), (1, 2, 3))).transpose(0, 3, 1, 2)


def _norm(state: State, eps: float, name: str, x: Array) -> Array:
    shape = (1, -1) + (1,) * (x.ndim - 2)
    mean, variance, weight, bias = (
        state[f"{name}.{part}"].astype(np.float64).reshape(shape)
        for part in ("running_mean", "running_var", "weight", "bias")
    )
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def _prelu(state: State, name: str, x: Array) -> Array:
    slope = state[f"{name}.weight"].astype(np.float64).reshape(1, -1, 1, 1)
    return np.where(x > 0, x, x * slope)
