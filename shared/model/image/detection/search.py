"""Search of a whole picture for faces, in four orientations and at several sizes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.model.image.detection.chips import eye_distance, transform
from shared.model.image.detection.yunet import Points, YuNet
from shared.model.image.face import Box

# YuNet was trained on faces of 10 to 300 pixels in images of about this size.
WORKING_SIDE: Final = 640
QUARTERS: Final = (0, 1, 2, 3)
# Longest side of the larger sizes for small faces, looked at in tiles of WORKING_SIDE.
_LARGER_SIDES: Final = (1280, 2560)
_TILE_OVERLAP: Final = 96
# Pixels of the border around a picture that a face may fill, which is reduced to half the working
# size.
_BORDER: Final = WORKING_SIDE // 4


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A face that one look at the picture shows.

    Attributes:
        points: Landmarks of the best anchor in pixels of the picture, float32 (5, 2).
        mean_points: Mean landmarks of all anchors.
        score: 0..1.
        quarter: Quarter turns, counter-clockwise, after which the face was seen upright.
        eyes: Distance of the eyes in pixels of the picture.
        seen_eyes: The same in the pixels that were looked at.
        whole: Whether the face lies inside the picture.
    """

    points: Points
    mean_points: Points
    score: float
    quarter: int
    eyes: float
    seen_eyes: float
    whole: bool


class Search:
    """Looks at one picture.

    Args:
        yunet: The detector.
        image: uint8, shape (height, width, 3), BGR.
    """

    def __init__(self, yunet: YuNet, image: NDArray[np.uint8]) -> None:
        self._yunet = yunet
        self._image = image
        self._longest = max(image.shape[:2])
        # The picture at the size that was looked at last, and the ratio of sizes.
        self._last: tuple[int, NDArray[np.uint8], Points] | None = None

    def whole(self, quarter: int) -> list[Candidate]:
        """Look at the picture after quarter turns, reduced to the working size."""
        return list(self._looks(WORKING_SIDE, quarter))

    def wider(self, quarter: int) -> list[Candidate]:
        """Look at half of the working size with a border, for faces that fill the picture."""
        return list(self._looks(WORKING_SIDE // 2, quarter, _BORDER))

    def larger_sides(self) -> list[int]:
        """Return the larger sizes at which the picture has more to show."""
        sides = [min(side, self._longest) for side in _LARGER_SIDES]
        return sorted({side for side in sides if side > WORKING_SIDE})

    def tiles(self, side: int, quarter: int) -> list[Candidate]:
        """Look at tiles of the picture, reduced to a longest side."""
        return list(self._looks(side, quarter))

    def _looks(self, longest: int, quarter: int, border: int = 0) -> Iterator[Candidate]:
        reduced, ratio = self._reduced(longest)
        if border:
            reduced = _with_border(reduced, border)
        turned = np.ascontiguousarray(np.rot90(reduced, quarter))
        back = _unturn(reduced.shape[1], reduced.shape[0], quarter)
        for y in _starts(turned.shape[0]):
            for x in _starts(turned.shape[1]):
                tile = turned[y : y + WORKING_SIDE, x : x + WORKING_SIDE]
                for seen in self._yunet.look(np.ascontiguousarray(tile)):
                    if _cut_by_tile(seen.box, x, y, tile, turned):
                        continue
                    eyes = eye_distance(seen.points)
                    points, mean, corners = (
                        (transform(back, some + np.array([x, y], np.float32)) - border + 0.5)
                        / ratio
                        - 0.5
                        for some in (seen.points, seen.mean_points, _corners(seen.box))
                    )
                    yield Candidate(
                        points.astype(np.float32),
                        mean.astype(np.float32),
                        seen.score,
                        quarter,
                        eyes / float(ratio.mean()),
                        eyes,
                        self._contains(corners),
                    )

    def _reduced(self, longest: int) -> tuple[NDArray[np.uint8], Points]:
        """Return the picture with its longest side reduced, and the ratio of sizes in x and y."""
        if self._last is None or self._last[0] != longest:
            self._last = (longest, *_reduced(self._image, longest))
        return self._last[1:]

    def _contains(self, corners: Points) -> bool:
        height, width = self._image.shape[:2]
        return bool((corners >= 0).all() and (corners <= [width - 1, height - 1]).all())


def box_around(points: Points) -> Box:
    """Return the upright box of a face by its landmarks, of the size that YuNet gives it."""
    eyes = eye_distance(points)
    x, y = points.mean(axis=0).tolist()
    return Box(x - 1.15 * eyes, y - 1.45 * eyes, 2.3 * eyes, 2.9 * eyes)


def _with_border(image: NDArray[np.uint8], border: int) -> NDArray[np.uint8]:
    around = cv2.copyMakeBorder(image, border, border, border, border, cv2.BORDER_CONSTANT)
    return np.asarray(around, np.uint8)


def _reduced(image: NDArray[np.uint8], longest: int) -> tuple[NDArray[np.uint8], Points]:
    """Return the image with its longest side reduced, and the ratio of sizes in x and y."""
    height, width = image.shape[:2]
    shrink = longest / max(height, width)
    if shrink >= 1:
        return image, np.ones(2, np.float32)
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    reduced = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    ratio = np.array([size[0] / width, size[1] / height], np.float32)
    return np.asarray(reduced, np.uint8), ratio


def _unturn(width: int, height: int, quarter: int) -> NDArray[np.float64]:
    """Return the matrix from an image after quarter turns to the image of a size before them."""
    match quarter:
        case 0:
            return np.array([[1.0, 0, 0], [0, 1, 0]])
        case 1:
            return np.array([[0.0, -1, width - 1], [1, 0, 0]])
        case 2:
            return np.array([[-1.0, 0, width - 1], [0, -1, height - 1]])
        case _:
            return np.array([[0.0, 1, 0], [-1, 0, height - 1]])


def _starts(length: int) -> list[int]:
    """Return where tiles begin; the last one ends at the edge."""
    if length <= WORKING_SIDE:
        return [0]
    count = -(-(length - _TILE_OVERLAP) // (WORKING_SIDE - _TILE_OVERLAP))
    return [round(place) for place in np.linspace(0, length - WORKING_SIDE, count)]


def _corners(box: NDArray[np.float32]) -> Points:
    x, y, width, height = box.tolist()
    return np.array([[x, y], [x + width, y + height]], np.float32)


def _cut_by_tile(
    box: NDArray[np.float32], x: int, y: int, tile: NDArray[np.uint8], whole: NDArray[np.uint8]
) -> bool:
    """Tell whether a face leaves its tile, but not the picture; another tile shows all of it."""
    left, top, width, height = box.tolist()
    rows, columns = tile.shape[:2]
    return bool(
        (left < 0 < x)
        or (top < 0 < y)
        or (left + width > columns and x + columns < whole.shape[1])
        or (top + height > rows and y + rows < whole.shape[0])
    )
