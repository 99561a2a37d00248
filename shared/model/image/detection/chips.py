"""Upright chips: squares cut around a face from the full-resolution picture."""

from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.image.align import ARCFACE_TEMPLATE, similarity_transform, warp_square
from shared.model.image.detection.yunet import Points, YuNet

# Middle of a face's box, in the coordinates of the template.
_MIDDLE: Final = np.array([56.0, 72.0], np.float32)
_TEMPLATE_EYES: Final = float(np.linalg.norm(ARCFACE_TEMPLATE[1] - ARCFACE_TEMPLATE[0]))
_MIRRORED_ORDER: Final = (1, 0, 2, 4, 3)


@dataclass(frozen=True, slots=True)
class ChipSize:
    """Size of a chip and of the face in it.

    Attributes:
        side: In pixels.
        zoom: Size of the face, as a multiple of its size in the 112x112 crop.
        shift: Pixels by which the face lies right of and below the middle.
    """

    side: int
    zoom: float
    shift: int = 0

    def template(self) -> Points:
        """Return where the landmarks of an upright face lie in the chip."""
        middle = np.float32(self.side / 2 + self.shift)
        return (ARCFACE_TEMPLATE - _MIDDLE) * np.float32(self.zoom) + middle


@dataclass(frozen=True, slots=True, eq=False)
class ChipLook:
    """What one look at a chip says.

    Attributes:
        points: Mean landmarks of all anchors, in pixels of the picture.
        best_points: Landmarks of the best anchor.
        score: 0..1.
    """

    points: Points
    best_points: Points
    score: float


def look_at_chip(
    yunet: YuNet,
    image: NDArray[np.uint8],
    points: Points,
    size: ChipSize,
    *,
    mirrored: bool = False,
) -> ChipLook | None:
    """Cut the chip in which landmarks lie upright, and look for the face in it.

    Args:
        yunet: The detector.
        image: uint8, shape (height, width, 3), BGR.
        points: Landmarks in pixels of `image`.
        size: Of the chip.
        mirrored: Look at the mirror image. YuNet's errors differ there, so a mean of both is
            better.

    Returns:
        The look; None if no face lies where the chip should show it.
    """
    wanted = size.template()
    matrix = similarity_transform(points, wanted)
    chip = warp_square(image, matrix, size.side)
    if mirrored:
        chip = np.ascontiguousarray(chip[:, ::-1])
        wanted = _mirror(wanted, size.side)
    reach = _TEMPLATE_EYES * size.zoom
    for seen in yunet.look(chip):
        if np.linalg.norm((seen.mean_points - wanted).mean(axis=0)) < reach:
            inverse = np.asarray(cv2.invertAffineTransform(matrix), np.float64)
            mean, best = (
                transform(inverse, _mirror(found, size.side) if mirrored else found)
                for found in (seen.mean_points, seen.points)
            )
            return ChipLook(mean, best, seen.score)
    return None


def transform(matrix: NDArray[np.float64], points: Points) -> Points:
    """Apply an affine matrix (2, 3) to points (N, 2)."""
    return np.asarray(points @ matrix[:, :2].T + matrix[:, 2], np.float32)


def eye_distance(points: Points) -> float:
    """Return the size of a face: the distance of the eyes that its five landmarks suggest.

    It is that of the template as the best fit places it, so that it does not shrink for a head that
    looks aside.
    """
    matrix = similarity_transform(points, ARCFACE_TEMPLATE)
    return _TEMPLATE_EYES / float(np.hypot(matrix[0, 0], matrix[1, 0]))


def roll(points: Points) -> float:
    """Return the angle of a face to upright, in degrees; positive if it leans to the left."""
    matrix = similarity_transform(points, ARCFACE_TEMPLATE)
    return float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))


def with_roll(points: Points, degrees: float) -> Points:
    """Turn landmarks about their middle until their roll is an angle in degrees."""
    angle = np.radians(degrees - roll(points))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    middle = points.mean(axis=0)
    # A point turned by an angle in the picture is turned back by it on the way to the template.
    return np.asarray((points - middle) @ turn + middle, np.float32)


def _mirror(points: Points, side: int) -> Points:
    across = points[list(_MIRRORED_ORDER)]
    return np.stack([side - 1 - across[:, 0], across[:, 1]], axis=1)
