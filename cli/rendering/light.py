"""Shading of the face: a height map of its features, lit from one direction."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from cli.rendering.pose import Pose
from cli.rendering.shot import Shot
from cli.rendering.traits import Traits
from shared.model.image.align import CROP_SIZE

Plane = NDArray[np.float32]

_PIXELS: Final = np.arange(CROP_SIZE, dtype=np.float32)
_HEAD: Final = (52.0, 70.0)


def shading(traits: Traits, pose: Pose, shot: Shot) -> tuple[Plane, Plane]:
    """Compute the shading of each pixel.

    Returns:
        Factor of the colour, and gloss to add, both float32 [112, 112].
    """
    height, slope_x, slope_y = _relief(traits, pose, shot)
    normal = _normals(pose, slope_x, slope_y)
    light = np.array(shot.light, dtype=np.float32)
    lit = np.clip(np.tensordot(light, normal, 1), 0.0, None) / light[2]
    factor = shot.ambient + (1.0 - shot.ambient) * lit
    # Hollows get less ambient light.
    factor *= np.clip(1.0 + 0.022 * np.minimum(height, 2.0), 0.5, 1.1)
    halfway = light + np.array([0.0, 0.0, 1.0], dtype=np.float32)
    halfway /= np.linalg.norm(halfway)
    gloss = np.clip(np.tensordot(halfway, normal, 1), 0.0, 1.0) ** 22
    return factor.astype(np.float32), (26.0 * (1.2 - shot.ambient) * gloss).astype(np.float32)


def _relief(traits: Traits, pose: Pose, shot: Shot) -> tuple[Plane, Plane, Plane]:
    """Height of the features over the bare head and its slopes along x and y."""
    bumps = _bumps(traits, shot)
    centre = pose.place(bumps[:, :2], bumps[:, 5])
    x = _PIXELS[None, :] - centre[:, :1].astype(np.float32)
    y = _PIXELS[None, :] - centre[:, 1:].astype(np.float32)
    wide, tall = bumps[:, 2:3].astype(np.float32), bumps[:, 3:4].astype(np.float32)
    across, down = np.exp(-0.5 * (x / wide) ** 2), np.exp(-0.5 * (y / tall) ** 2)
    down_scaled = down * bumps[:, 4:5].astype(np.float32)
    height = down_scaled.T @ across
    slope_x = down_scaled.T @ (across * (-x / wide**2))
    slope_y = (down_scaled * (-y / tall**2)).T @ across
    return height, slope_x, slope_y


def _bumps(traits: Traits, shot: Shot) -> NDArray[np.float64]:
    """Gaussian hills and hollows: x, y, width, height along y, amount, lift of the centre."""
    t = traits
    smile = max(0.0, shot.smile)
    rows = [
        (0.0, -0.5 * t.eye_rise, t.nose_bridge, 0.5 * t.eye_rise, 0.28 * t.nose_height, 6.0),
        (0.0, -5.0 + t.nose_hook, t.nose_bridge + 0.8, 5.0, 0.12 * t.nose_height, 8.0),
        (0.0, t.nose_drop, 0.52 * t.nose_width, 3.8, 0.36 * t.nose_height, 0.6 * t.nose_height),
        (0.0, t.mouth_drop - 6.5, 1.7, 3.0, -0.9, 2.0),
        (0.0, t.mouth_drop - 2.0, 0.6 * t.mouth_width, 2.4, 1.1, 2.0),
        (0.0, t.mouth_drop + 3.0, 0.5 * t.mouth_width, 2.6, 0.5 + 0.4 * t.lower_lip, 2.0),
        (0.0, t.mouth_drop + 8.5, 7.5, 2.6, -2.0, 0.0),
        (0.0, t.chin_drop - 7.0, 0.55 * t.chin, 5.0, 3.0, 0.0),
        (0.0, -44.0, 20.0, 12.0, 1.8, 0.0),
    ]
    for side in (-1.0, 1.0):
        x = side * t.eye_spread
        rows += [
            (x - side * 2.0, -t.eye_rise - 1.0, 6.5, 4.6, -3.6, 0.0),
            (x, -t.eye_rise, 0.75 * t.eye_width, 0.9 * t.eye_height, 1.5, 0.0),
            (x, -t.eye_rise - t.brow_rise, 9.0, 3.2, 1.6, 0.0),
            (side * 0.7 * t.nose_width, t.nose_drop + 0.5, 2.4, 2.6, 1.7, 3.0),
            (side * 25.0, -4.0 - 2.0 * smile, 8.0, 6.0, 0.8 + 2.4 * t.cheekbone + smile, 0.0),
            (side * 27.0, 16.0, 7.0, 9.0, -2.4 * t.hollow, 0.0),
            (side * (t.mouth_width + 3.5), t.mouth_drop, 2.6, 5.0, -1.2 - smile, 0.0),
        ]
    return np.array(rows)


def _normals(pose: Pose, slope_x: Plane, slope_y: Plane) -> NDArray[np.float32]:
    """Unit normals (3, 112, 112) of the head's ellipsoid with the features on it."""
    middle = pose.place_at(np.array([[0.0, -10.0]]), 0.0)[0].astype(np.float32)
    size = float(np.hypot(pose.alignment[0, 0], pose.alignment[1, 0]))
    x = np.clip((_PIXELS - middle[0]) / np.float32(size * _HEAD[0]), -1.0, 1.0)[None, :]
    y = np.clip((_PIXELS - middle[1]) / np.float32(size * _HEAD[1]), -1.0, 1.0)[:, None]
    z = np.sqrt(np.clip(1.0 - x * x - y * y, 0.06, None))
    normal = np.stack([x - slope_x, y - slope_y, z])
    return np.asarray(normal / np.sqrt((normal * normal).sum(axis=0)), dtype=np.float32)
