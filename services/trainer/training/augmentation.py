"""Image augmentation: variants of a face crop as another camera could have taken it."""

import cv2
import numpy as np
import torch
from torchvision.transforms import v2

from services.trainer.data.arrays import CropArray

_MIN_JPEG_QUALITY, _MAX_JPEG_QUALITY = 25, 90


def augmentation(probability: float) -> v2.Transform:
    """Mirror, light and JPEG; docs/learning.md compares them with others.

    Args:
        probability: Probability of each step, but of the mirror, which has one half.

    Returns:
        Transform from uint8 [3, 112, 112], RGB, to the same; draws from torch's global
        generator.
    """
    return v2.Compose(
        [
            v2.RandomHorizontalFlip(),
            v2.RandomApply(
                [v2.ColorJitter(brightness=(0.4, 1.3), contrast=(0.7, 1.3))], probability
            ),
            v2.RandomApply([v2.Lambda(_compress_jpeg)], probability),
        ]
    )


def mild_augmentation() -> v2.Transform:
    """Mirror, geometry and light, by so little that the image quality stays the same.

    Returns:
        A transform as of `augmentation`.
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


def augment(crops: CropArray, transform: v2.Transform) -> CropArray:
    """Apply a transform to each crop independently.

    Args:
        crops: uint8 [N, 112, 112, 3], BGR.
        transform: From `augmentation` or `mild_augmentation`.

    Returns:
        The same shape, dtype and channel order.
    """
    rgb = torch.from_numpy(np.ascontiguousarray(crops[..., ::-1].transpose(0, 3, 1, 2)))
    changed = torch.stack([transform(crop) for crop in rgb])
    bgr: CropArray = changed.numpy().transpose(0, 2, 3, 1)[..., ::-1]
    return bgr


def _compress_jpeg(crop: torch.Tensor) -> torch.Tensor:
    # torchvision's JPEG transform is deprecated.
    quality = int(torch.randint(_MIN_JPEG_QUALITY, _MAX_JPEG_QUALITY + 1, ()))
    pixels = np.ascontiguousarray(crop.numpy().transpose(1, 2, 0)[..., ::-1])
    _, jpeg = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB))
    return torch.from_numpy(np.ascontiguousarray(decoded.transpose(2, 0, 1)))
