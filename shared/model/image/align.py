"""Five-point alignment of a face to the ArcFace template."""

from itertools import permutations
from typing import Final

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from shared.errors import InvalidInput

CROP_SIZE: Final = 112
LANDMARK_COUNT: Final = 5
# Of the landmarks of real faces, 99 in 100 miss the template by less than 5 pixels, and those of a
# head turned by 65 degrees by 11; wrong orders miss it by 12.6 or more, mirrored ones by 22.
MAX_RESIDUAL: Final = 11.5
_NAMES: Final = ("left eye", "right eye", "nose", "left mouth corner", "right mouth corner")
# A reading of wrong landmarks is suggested only if the face is then about upright.
_UPRIGHT_DEGREES: Final = 60
# OpenCV samples no image with a longer side.
_WARP_LIMIT: Final = 32_000
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
        InvalidInput: If the landmarks are invalid, or lie as no face's do.
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
        if points.min() >= 0 and points.max() <= 1:
            raise InvalidInput(
                field,
                "lie between 0 and 1, like shares of the picture's size; pixels are needed: "
                "multiply x by its width and y by its height",
            )
        raise InvalidInput(field, "all lie within one pixel of a line; they must span a face")
    residual = template_residual(points)
    if residual > MAX_RESIDUAL:
        raise InvalidInput(
            field,
            "do not lie as left eye, right eye, nose, left and right mouth corner do (left and "
            f"right in the picture, y downwards): they miss the template by {residual:.1f} pixels "
            f"of a 112x112 crop, and at most {MAX_RESIDUAL:g} are accepted; {_advice(points)}",
        )
    return points


def template_residual(points: NDArray[np.float32]) -> float:
    """Return how badly landmarks fit the template, in pixels of the crop (root mean square)."""
    matrix = similarity_transform(points, ARCFACE_TEMPLATE)
    placed = points @ matrix[:, :2].T + matrix[:, 2]
    return float(np.sqrt(((placed - ARCFACE_TEMPLATE) ** 2).sum(axis=1).mean()))


def _advice(points: NDArray[np.float32]) -> str:
    """Name the order or the axes in which landmarks would fit."""
    own_sides = [1, 0, 2, 4, 3]
    readings: dict[str, NDArray[np.floating]] = {
        "left and right as the person has them: swap both eyes and both mouth corners": points[
            own_sides
        ],
        "x and y swapped: send x first": points[:, ::-1],
        "a y axis that points upwards: count y from the top of the picture": points * [1, -1],
        "an x axis that points to the left: count x from the left of the picture": points * [-1, 1],
    }
    for order in permutations(range(LANDMARK_COUNT)):
        names = [_NAMES[order.index(place)] for place in range(LANDMARK_COUNT)]
        readings.setdefault(f"the order {', '.join(names)}", points[list(order)])
    fitting = {name: read for name, read in readings.items() if _is_upright_face(read)}
    if not fitting:
        return "no order of them and no swap of axes fits either"
    best = min(fitting, key=lambda name: (name.startswith("the order"), _unfitness(fitting[name])))
    return f"they fit when read with {best}"


def _is_upright_face(points: NDArray[np.floating]) -> bool:
    matrix = similarity_transform(points.astype(np.float32), ARCFACE_TEMPLATE)
    upright = abs(float(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))) < _UPRIGHT_DEGREES
    return upright and template_residual(points.astype(np.float32)) <= MAX_RESIDUAL


def _unfitness(points: NDArray[np.floating]) -> float:
    return template_residual(points.astype(np.float32))


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
    a, b = (np.ascontiguousarray(each, np.float64).view(complex) for each in (source, target))
    a_mean, b_mean = a.sum() / len(a), b.sum() / len(b)
    from_centre = a - a_mean
    # The centre of the target drops out of the product with a centred source.
    turn = np.vdot(from_centre, b) / np.vdot(from_centre, from_centre)
    shift = b_mean - turn * a_mean
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
    return warp_square(image, similarity_transform(points, ARCFACE_TEMPLATE), CROP_SIZE)


def share_outside(points: NDArray[np.float32], width: int, height: int) -> float:
    """Return the share of a face's crop that lies outside its picture, 0..1.

    Args:
        points: Landmarks of the face, shape (5, 2).
        width: Of the picture, in pixels.
        height: The same.
    """
    to_image = cv2.invertAffineTransform(similarity_transform(points, ARCFACE_TEMPLATE))
    grid = np.stack(np.meshgrid(*2 * [np.arange(0, CROP_SIZE, 4)]), axis=-1).reshape(-1, 2)
    places = grid @ to_image[:, :2].T + to_image[:, 2]
    inside = (places >= -0.5) & (places < [width - 0.5, height - 0.5])
    return 1 - float(inside.all(axis=1).mean())


def warp_square(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], side: int
) -> NDArray[np.uint8]:
    """Sample a square from an image.

    Args:
        image: uint8, shape (height, width, 3).
        matrix: Similarity transform of shape (2, 3) from the image to the square.
        side: Of the square, in pixels.

    Returns:
        uint8, shape (side, side, 3); black outside the image.
    """
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5 or max(image.shape[:2]) > _WARP_LIMIT:
        image, matrix = _reduce(image, matrix, side, scale if scale < 0.5 else 1.0)
        if image.size == 0:
            return np.zeros((side, side, 3), np.uint8)
    return np.asarray(cv2.warpAffine(image, matrix, (side, side)), dtype=np.uint8)


def _reduce(
    image: NDArray[np.uint8], matrix: NDArray[np.float64], side: int, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Cut out the part of an image that a square needs, and reduce it by averaging.

    Bilinear sampling skips pixels below half size.
    """
    inverse = cv2.invertAffineTransform(matrix)
    corners = np.array([[0, 0], [side, 0], [0, side], [side, side]], np.float64)
    around = corners @ inverse[:, :2].T + inverse[:, 2]
    margin = 2 / scale + 1
    low = np.clip(np.floor(around.min(axis=0) - margin), 0, None).astype(int)
    high = np.clip(np.ceil(around.max(axis=0) + margin), 0, image.shape[1::-1]).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if part.size == 0:
        return part, matrix
    size = (max(1, round(part.shape[1] * scale)), max(1, round(part.shape[0] * scale)))
    ratio = np.array([size[0] / part.shape[1], size[1] / part.shape[0]])
    reduced = cv2.resize(part, size, interpolation=cv2.INTER_AREA) if scale < 1 else part
    # Coordinates refer to pixel centres: a point p of the image lies at (p - low + 0.5) * ratio
    # - 0.5 of the reduced part.
    turn = matrix[:, :2] / ratio
    shift = matrix[:, :2] @ (0.5 / ratio - 0.5 + low) + matrix[:, 2]
    return np.asarray(reduced, np.uint8), np.column_stack([turn, shift])
