"""Five-point alignment of a face to the ArcFace template."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import InvalidInput

CROP_SIZE: Final = 112
LANDMARK_COUNT: Final = 5
# Left eye, right eye, nose, left and right mouth corner; left and right in the image.
ARCFACE_TEMPLATE: Final[NDArray[np.float32]] = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ],
    dtype=np.float32,
)


def check_landmarks(landmarks: ArrayLike, field: str = "landmarks") -> NDArray[np.float32]:
    """Check that landmarks are five finite points that span an area.

    Args:
        landmarks: Shape (5, 2), x and y in pixels.
        field: Path of the field, for the error.

    Returns:
        The landmarks as float32, shape (5, 2).

    Raises:
        InvalidInput: If the landmarks are invalid.
    """
    points = np.asarray(landmarks, dtype=np.float32)
    if points.shape != (LANDMARK_COUNT, 2):
        given = points.shape[0] if points.ndim else 0
        raise InvalidInput(
            field,
            f"has {given} points; exactly 5 are needed: "
            "left eye, right eye, nose, left and right mouth corner",
        )
    if not np.isfinite(points).all():
        raise InvalidInput(field, "has a coordinate that is not a finite number")
    if float(np.ptp(points, axis=0).min()) < 1.0:
        raise InvalidInput(field, "all lie within one pixel of a line; they must span a face")
    return points


def similarity_transform(
    source: NDArray[np.float32], target: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Return the least-squares similarity transform from source to target.

    Umeyama (1991) without reflections; in two dimensions it is one complex division.

    Args:
        source: Shape (N, 2), not all equal.
        target: Shape (N, 2).

    Returns:
        Affine matrix of shape (2, 3) for ``cv2.warpAffine``.
    """
    a = source.astype(np.float64) @ np.array([1, 1j])
    b = target.astype(np.float64) @ np.array([1, 1j])
    from_centre, to_centre = a - a.mean(), b - b.mean()
    turn = np.vdot(from_centre, to_centre) / np.vdot(from_centre, from_centre)
    shift = b.mean() - turn * a.mean()
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align_face(
    image: NDArray[np.uint8], landmarks: ArrayLike, field: str = "landmarks"
) -> NDArray[np.uint8]:
    """Cut out a face with its landmarks on the ArcFace template.

    Args:
        image: uint8, shape (height, width, 3).
        landmarks: Shape (5, 2), in pixels of ``image``, in the order of the template.
        field: Path of the field, for the error.

    Returns:
        uint8 crop of shape (112, 112, 3); black outside the image.

    Raises:
        InvalidInput: If the landmarks are invalid or outside the image.
    """
    points = check_landmarks(landmarks, field)
    height, width = image.shape[:2]
    centre_x, centre_y = points.mean(axis=0)
    if not (0 <= centre_x < width and 0 <= centre_y < height):
        raise InvalidInput(
            field,
            f"lie around ({centre_x:.0f}, {centre_y:.0f}), outside the {width}x{height} picture",
        )
    matrix = similarity_transform(points, ARCFACE_TEMPLATE)
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:
        # Bilinear sampling skips pixels below half size, so reduce the image by averaging first.
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        ratio = np.array([size[0] / width, size[1] / height], dtype=np.float32)
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), dtype=np.uint8)
        # Coordinates refer to pixel centres.
        points = (points + 0.5) * ratio - 0.5
        matrix = similarity_transform(points, ARCFACE_TEMPLATE)
    return np.asarray(cv2.warpAffine(image, matrix, (CROP_SIZE, CROP_SIZE)), dtype=np.uint8)
