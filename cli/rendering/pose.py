"""Transformation from face to crop coordinates: head pose, perspective, alignment."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from cli.rendering.shot import Shot
from cli.rendering.traits import Traits
from shared.model.image.align import ARCFACE_TEMPLATE, similarity_transform

Points = NDArray[np.float64]

# Half axes of the ellipsoid the face lies on, and its middle above the tip of the nose.
_HALF_WIDTH: Final = 47.0
_HALF_HEIGHT: Final = 66.0
_DEPTH: Final = 44.0
_MIDDLE: Final = -8.0


def surface(points: Points) -> NDArray[np.float64]:
    """Depth of the bare face at points (N, 2): towards the viewer, 0 at its widest."""
    x, y = points[:, 0] / _HALF_WIDTH, (points[:, 1] - _MIDDLE) / _HALF_HEIGHT
    return _DEPTH * np.sqrt(np.clip(1.0 - x * x - y * y, 0.0, None))


@dataclass(frozen=True)
class Pose:
    """Pose of one face in one image.

    Attributes:
        rotation: Rotation of the head, (3, 3).
        distance: Distance of the camera, in pixels.
        alignment: Affine transformation from the camera's image to the aligned crop, (2, 3).
    """

    rotation: NDArray[np.float64]
    distance: float
    alignment: NDArray[np.float64]

    def place(self, points: Points, lift: float | NDArray[np.float64] = 0.0) -> Points:
        """Crop coordinates of points (N, 2) on the face's surface.

        Args:
            points: In the face's coordinates.
            lift: Height of the points above the surface.
        """
        return self.place_at(points, surface(points) + lift)

    def place_at(self, points: Points, depth: float | NDArray[np.float64]) -> Points:
        """Crop coordinates of points (N, 2) at a given depth."""
        projected = _project(points, depth, self.rotation, self.distance)
        return projected @ self.alignment[:, :2].T + self.alignment[:, 2]

    def outline(self, points: Points) -> Points:
        """Crop coordinates of the head's contour (N, 2).

        A turned head has another contour of about the same width. So the width stays, and only
        the lower face moves, which lies further forward.
        """
        turn = self.rotation[0, 0]
        width = np.sqrt(turn**2 + (_DEPTH / _HALF_WIDTH) ** 2 * (1.0 - turn**2))
        widened = points * np.array([width / max(turn, 0.5), 1.0])
        forward = np.clip(points[:, 1] / 48.0, 0.0, 1.0) * 26.0 - 4.0
        return self.place_at(widened, forward)


def make_pose(traits: Traits, shot: Shot) -> Pose:
    """Turn the head and align it by its five landmarks, as a detector would."""
    rotation = _rotation(shot.yaw, shot.pitch)
    marks = _landmarks(traits)
    depth = surface(marks) + np.array([-2.0, -2.0, traits.nose_height, 1.0, 1.0])
    projected = _project(marks, depth, rotation, shot.distance) + shot.jitter
    alignment = similarity_transform(projected.astype(np.float32), ARCFACE_TEMPLATE)
    return Pose(rotation, shot.distance, alignment)


def _landmarks(traits: Traits) -> Points:
    mouth = traits.mouth_width
    return np.array(
        [
            [-traits.eye_spread, -traits.eye_rise],
            [traits.eye_spread, -traits.eye_rise],
            [0.0, traits.nose_drop],
            [-mouth, traits.mouth_drop],
            [mouth, traits.mouth_drop],
        ]
    )


def _rotation(yaw: float, pitch: float) -> NDArray[np.float64]:
    turn = np.array(
        [
            [np.cos(yaw), 0.0, np.sin(yaw)],
            [0.0, 1.0, 0.0],
            [-np.sin(yaw), 0.0, np.cos(yaw)],
        ]
    )
    bend = np.array(
        [
            [1.0, 0.0, 0.0],
            [0.0, np.cos(pitch), np.sin(pitch)],
            [0.0, -np.sin(pitch), np.cos(pitch)],
        ]
    )
    return np.asarray(turn @ bend)


def _project(
    points: Points, depth: float | NDArray[np.float64], rotation: NDArray[np.float64], far: float
) -> Points:
    """Rotate points (N, 2) with a depth (N,) or a common one, and project them."""
    x, y = points.T
    across = x * rotation[0, 0] + y * rotation[0, 1] + depth * rotation[0, 2]
    down = x * rotation[1, 0] + y * rotation[1, 1] + depth * rotation[1, 2]
    near = x * rotation[2, 0] + y * rotation[2, 1] + depth * rotation[2, 2]
    size = far / (far + _DEPTH - near)
    return np.stack([across * size, down * size], axis=1)
