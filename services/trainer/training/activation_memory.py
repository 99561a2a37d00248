"""Memory of a training step: how many images' activations are kept at a time."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from services.trainer.data.arrays import CropArray
from shared.model.image.align import CROP_SIZE

# With it a training of an iResNet-100 stays below 6 GB; see docs/learning.md.
_CPU_BYTES = 2 * 2**30
# Larger parts do not make a step faster.
_MOST_IMAGES = 72


def images_at_once(forward: Callable[[CropArray], Tensor], device: torch.device) -> int:
    """Return how many images' activations fit into the memory that a step may take for them.

    That is 2 GiB on a CPU, and half of the memory of a GPU.

    Args:
        forward: Computes the features of crops, uint8 [N, 112, 112, 3], with gradients.
        device: The device of the network.

    Returns:
        From 1 to 72.
    """
    budget = _CPU_BYTES
    if device.type == "cuda":
        budget = torch.cuda.get_device_properties(device).total_memory // 2
    return max(1, min(_MOST_IMAGES, budget // activation_bytes(forward)))


def activation_bytes(forward: Callable[[CropArray], Tensor]) -> int:
    """Measure the bytes that a forward pass keeps for the backward pass, for each image.

    Args:
        forward: See `images_at_once`.
    """
    # The difference leaves out what is kept once for all images, such as the weights.
    return max(1, _kept_bytes(forward, 2) - _kept_bytes(forward, 1))


def _kept_bytes(forward: Callable[[CropArray], Tensor], images: int) -> int:
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    crops = np.zeros((images, CROP_SIZE, CROP_SIZE, 3), np.uint8)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        features = forward(crops)
    # The graph of the features keeps the tensors, so that no two had the same address.
    del features
    return sum(kept.values())
