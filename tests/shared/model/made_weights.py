"""Weights computed from their keys, so that tests need no weights file.

The rule is that of ``../shared/golden/parity.npz``. The key lists are repeated here on purpose:
they do not come from the network under test.
"""

from collections.abc import Iterator
from math import prod, sqrt
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

State = dict[str, NDArray[np.float32]]

LAYOUTS = {
    "iresnet18": (2, 2, 2, 2),
    "iresnet34": (3, 4, 6, 3),
    "iresnet50": (3, 4, 14, 3),
    "iresnet100": (3, 13, 30, 3),
}
NARROW = (4, 8, 12, 16)
NARROW_EMBEDDING = 32


def official_shapes(
    blocks: tuple[int, ...], widths: tuple[int, ...], embedding_size: int
) -> dict[str, tuple[int, ...]]:
    """Shapes by key, in the official order; the stem is as wide as the first stage."""
    stem, last = widths[0], widths[-1]
    shapes = {"conv1.weight": (stem, 3, 3, 3), **dict(_norm("bn1", stem)), "prelu.weight": (stem,)}
    width_in = stem
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
        for block in range(count):
            shapes |= _block(f"layer{stage}.{block}", width_in, width, first=block == 0)
            width_in = width
    shapes |= dict(_norm("bn2", last))
    shapes |= {"fc.weight": (embedding_size, last * 7 * 7), "fc.bias": (embedding_size,)}
    return shapes | dict(_norm("features", embedding_size))


def _norm(name: str, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (width,)
    yield f"{name}.num_batches_tracked", ()


def _block(name: str, width_in: int, width: int, *, first: bool) -> dict[str, tuple[int, ...]]:
    shapes = dict(_norm(f"{name}.bn1", width_in))
    shapes[f"{name}.conv1.weight"] = (width, width_in, 3, 3)
    shapes |= dict(_norm(f"{name}.bn2", width))
    shapes[f"{name}.prelu.weight"] = (width,)
    shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
    shapes |= dict(_norm(f"{name}.bn3", width))
    if first:
        shapes[f"{name}.downsample.0.weight"] = (width, width_in, 1, 1)
        shapes |= dict(_norm(f"{name}.downsample.1", width))
    return shapes


def made_state(shapes: dict[str, tuple[int, ...]]) -> State:
    return {key: _made(key, shape) for key, shape in shapes.items()}


def _made(key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    rng = np.random.default_rng(crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        values = np.zeros(shape)
    elif key.endswith("running_var"):
        values = rng.uniform(0.5, 1.5, shape)
    elif key.endswith(("running_mean", "bias")):
        values = rng.normal(0.0, 0.1, shape)
    elif len(shape) == 1:
        low, high = (0.1, 0.4) if "prelu" in key else (0.5, 1.0)
        values = rng.uniform(low, high, shape)
    else:
        values = rng.normal(0.0, 1.0, shape) * sqrt(1 / prod(shape[1:]))
    return np.asarray(values, np.float32)


def narrow_state(architecture: str = "iresnet18") -> State:
    """A complete network of an official depth, small enough for a test."""
    return made_state(official_shapes(LAYOUTS[architecture], NARROW, NARROW_EMBEDDING))
