"""The camera: exposure, colour, resolution, blur, noise and JPEG compression."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.shot import Shot
from shared.model.image.align import CROP_SIZE

Picture = NDArray[np.float32]


def photograph(scene: Picture, shot: Shot, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Convert a scene, float32 [112, 112, 3], to an image, uint8 [112, 112, 3], BGR."""
    image = _expose(scene, shot)
    image = _blur(_resolve(image, shot.sharp_pixels), shot)
    image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(shot.noise)
    pixels = np.clip(np.rint(image), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, shot.jpeg_quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def _expose(scene: Picture, shot: Shot) -> Picture:
    gains = np.array(shot.tint, dtype=np.float32) * np.float32(shot.exposure)
    image = scene * gains
    grey = image @ np.array([0.114, 0.587, 0.299], dtype=np.float32)
    image = grey[..., None] + (image - grey[..., None]) * np.float32(shot.saturation)
    return np.asarray(118 + (image - 118) * np.float32(shot.contrast), dtype=np.float32)


def _resolve(image: Picture, pixels: float) -> Picture:
    side = round(pixels)
    if side >= CROP_SIZE:
        return image
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(small, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(whole, dtype=np.float32)


def _blur(image: Picture, shot: Shot) -> Picture:
    if shot.blur > 0.2:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), shot.blur), dtype=np.float32)
    if np.hypot(*shot.motion) > 1.0:
        kernel = np.zeros((9, 9), dtype=np.float32)
        for share in np.linspace(-0.5, 0.5, 13):
            x, y = (round(4 + 2 * share * step) for step in shot.motion)
            kernel[y, x] += 1.0
        image = np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum()), dtype=np.float32)
    return image
