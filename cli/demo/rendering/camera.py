"""What the camera makes of it: exposure, colour, resolution, blur, noise, JPEG."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.demo.rendering.shot import Shot
from shared.model.image.align import CROP_SIZE

Picture = NDArray[np.float32]


def photograph(scene: Picture, shot: Shot, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Take the picture: float32 scene of 112x112x3 in, uint8 BGR out."""
    seen = _expose(scene, shot)
    seen = _blur(_resolve(seen, shot.sharp_pixels), shot)
    seen += rng.standard_normal(seen.shape, dtype=np.float32) * np.float32(shot.noise)
    pixels = np.clip(np.rint(seen), 0, 255).astype(np.uint8)
    _, data = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, shot.jpeg_quality])
    return np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), dtype=np.uint8)


def _expose(scene: Picture, shot: Shot) -> Picture:
    gains = np.array(shot.tint, dtype=np.float32) * np.float32(shot.exposure)
    seen = scene * gains
    grey = seen @ np.array([0.114, 0.587, 0.299], dtype=np.float32)
    seen = grey[..., None] + (seen - grey[..., None]) * np.float32(shot.saturation)
    return np.asarray(118 + (seen - 118) * np.float32(shot.contrast), dtype=np.float32)


def _resolve(seen: Picture, pixels: float) -> Picture:
    side = round(pixels)
    if side >= CROP_SIZE:
        return seen
    small = cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA)
    whole = cv2.resize(small, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_LINEAR)
    return np.asarray(whole, dtype=np.float32)


def _blur(seen: Picture, shot: Shot) -> Picture:
    if shot.blur > 0.2:
        seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), shot.blur), dtype=np.float32)
    if np.hypot(*shot.motion) > 1.0:
        kernel = np.zeros((9, 9), dtype=np.float32)
        for share in np.linspace(-0.5, 0.5, 13):
            x, y = (round(4 + 2 * share * step) for step in shot.motion)
            kernel[y, x] += 1.0
        seen = np.asarray(cv2.filter2D(seen, -1, kernel / kernel.sum()), dtype=np.float32)
    return seen
