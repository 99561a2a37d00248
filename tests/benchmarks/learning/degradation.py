"""Degraded images of faces, as from a poor camera."""

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.image.align import CROP_SIZE


def degrade(crop: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Degrade a face: 16 to 28 pixels wide, dark, noisy, and compressed as a poor JPEG.

    Args:
        crop: uint8 [112, 112, 3], BGR.
        seed: The same seed gives the same image.

    Returns:
        An image of the same shape and type, enlarged again as a face detector would do it.
    """
    rng = np.random.default_rng(seed)
    side = int(rng.integers(16, 29))
    small = cv2.resize(crop, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    dark = 255 * (small / 255) ** rng.uniform(1.0, 1.6) * rng.uniform(0.35, 0.8)
    noisy = dark + rng.normal(0, rng.uniform(2, 7), dark.shape)
    large = cv2.resize(
        noisy.clip(0, 255).astype(np.uint8), (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_CUBIC
    )
    _, jpeg = cv2.imencode(".jpg", large, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(30, 70))])
    return np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR), np.uint8)
