"""Faces as a bad camera sees them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.image.align import CROP_SIZE


def degrade(crop: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
    """Photograph a face anew: 16-28 pixels wide, dark, noisy, and saved as a poor JPEG.

    Args:
        crop: uint8 [112, 112, 3], BGR.
        seed: Of all that chance decides; the same seed gives the same picture.

    Returns:
        Of the same shape, enlarged again as a face detector's crop would be.
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
