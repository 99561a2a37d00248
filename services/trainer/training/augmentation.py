"""Other pictures of the same face, as another camera would have taken them."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.transforms import v2

from shared.model.image.align import CROP_SIZE

_SMALLEST, _LARGEST = 14, 80
_WORST_JPEG, _BEST_JPEG = 25, 90


def augmentation(probability: float) -> v2.Transform:
    """Mirror, geometry, resolution, light, noise and JPEG; compared in docs/learning.md.

    Args:
        probability: Of each step but the mirror, which has one half.

    Returns:
        Takes and gives uint8 [3, 112, 112], RGB; draws from torch's global generator.
    """
    steps: list[torch.nn.Module] = [
        v2.RandomAffine(
            degrees=6,
            translate=(0.03, 0.03),
            scale=(0.94, 1.06),
            interpolation=v2.InterpolationMode.BILINEAR,
        ),
        v2.RandomResize(_SMALLEST, _LARGEST),
        v2.ColorJitter(brightness=(0.4, 1.3), contrast=(0.7, 1.3)),
        # Before the picture is enlarged again: a camera's noise is as coarse as its pixels.
        v2.RandomChoice([v2.GaussianNoise(sigma=sigma) for sigma in (0.005, 0.015, 0.03)]),
        v2.Resize(CROP_SIZE),
        v2.Lambda(_through_jpeg),
    ]
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            *(
                step if isinstance(step, v2.Resize) else v2.RandomApply([step], probability)
                for step in steps
            ),
        ]
    )


def light_changes() -> v2.Transform:
    """Changes that leave a good picture a good one: mirror, geometry, light.

    Returns:
        As `augmentation` does.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomAffine(
                degrees=8,
                translate=(0.04, 0.04),
                scale=(0.92, 1.08),
                interpolation=v2.InterpolationMode.BILINEAR,
            ),
            v2.RandomApply([v2.ColorJitter(brightness=(0.6, 1.3), contrast=(0.8, 1.2))], 0.3),
        ]
    )


def _through_jpeg(crop: torch.Tensor) -> torch.Tensor:
    # torchvision has deprecated its own.
    quality = int(torch.randint(_WORST_JPEG, _BEST_JPEG + 1, ()))
    pixels = np.ascontiguousarray(crop.numpy().transpose(1, 2, 0)[..., ::-1])
    _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB))
    return torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1)))


def augment(crops: NDArray[np.uint8], transform: v2.Transform) -> NDArray[np.uint8]:
    """Apply a transform to each crop by itself.

    Args:
        crops: uint8 [N, 112, 112, 3], BGR.
        transform: From `augmentation`.

    Returns:
        The same shape, type and channel order.
    """
    rgb = torch.from_numpy(np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2)))
    changed = torch.stack([transform(crop) for crop in rgb])
    bgr: NDArray[np.uint8] = changed.numpy().transpose(0, 2, 3, 1)[..., ::-1]
    return bgr
