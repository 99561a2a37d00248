"""Canvas for antialiased shapes."""

from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.pose import Points
from cli.rendering.traits import Colour
from shared.model.image.align import CROP_SIZE

ZOOM: Final = 4
_SIDE: Final = CROP_SIZE * ZOOM
# Fixed-point bits below a pixel that OpenCV draws with.
_SHIFT: Final = 4


class Canvas:
    """Draws at four times the size of the crop; coordinates are pixels of the 112x112 crop."""

    def __init__(self) -> None:
        self.pixels: NDArray[np.uint8] = np.zeros((_SIDE, _SIDE, 3), dtype=np.uint8)

    def fill(self, outline: Points, colour: Colour) -> None:
        cv2.fillPoly(self.pixels, [_fixed(outline)], colour, cv2.LINE_AA, _SHIFT)

    def stroke(self, line: Points, colour: Colour, width: float, closed: bool = False) -> None:
        thickness = max(1, round(width * ZOOM))
        cv2.polylines(self.pixels, [_fixed(line)], closed, colour, thickness, cv2.LINE_AA, _SHIFT)

    def strokes(self, lines: list[Points], colour: Colour, width: float) -> None:
        thickness = max(1, round(width * ZOOM))
        fixed = [_fixed(line) for line in lines]
        cv2.polylines(self.pixels, fixed, False, colour, thickness, cv2.LINE_AA, _SHIFT)

    def dot(self, centre: Points, radius: float, colour: Colour) -> None:
        x, y = _fixed(centre.reshape(1, 2))[0].tolist()
        size = max(1, round(radius * ZOOM * 2**_SHIFT))
        cv2.circle(self.pixels, (x, y), size, colour, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def shrunk(self) -> NDArray[np.float32]:
        """The drawing at 112x112, float32."""
        small = cv2.resize(self.pixels, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
        return small.astype(np.float32)


def area(outlines: list[Points]) -> NDArray[np.float32]:
    """Coverage 0..1 of filled shapes, float32 of 112x112."""
    mask = np.zeros((CROP_SIZE * 2, CROP_SIZE * 2), dtype=np.uint8)
    for outline in outlines:
        points = np.rint((outline * 2 + 0.5) * 2**_SHIFT).astype(np.int32)
        cv2.fillPoly(mask, [points], 255, cv2.LINE_AA, _SHIFT)
    small = cv2.resize(mask, (CROP_SIZE, CROP_SIZE), interpolation=cv2.INTER_AREA)
    return small.astype(np.float32) * np.float32(1 / 255)


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Blend two colours: a share of 0 gives the first, 1 the other."""
    b, g, r = ((1 - share) * x + share * y for x, y in zip(one, other, strict=True))
    return b, g, r


def darker(colour: Colour, factor: float) -> Colour:
    """Scale a colour: darker below 1, lighter above."""
    b, g, r = (min(255.0, factor * value) for value in colour)
    return b, g, r


def smooth(corners: Points, steps: int = 6, closed: bool = True) -> Points:
    """Catmull-Rom curve through corners (N, 2)."""
    if closed:
        padded = np.concatenate([corners[-1:], corners, corners[:2]])
    else:
        padded = np.concatenate([corners[:1], corners, corners[-1:]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = (np.arange(steps) / steps)[None, :, None]
    p0, p1, p2, p3 = (part[:, None, :] for part in (before, start, end, after))
    curve = p1 + 0.5 * t * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    points = curve.reshape(-1, 2)
    return points if closed else np.concatenate([points, corners[-1:]])


def _fixed(points: Points) -> NDArray[np.int32]:
    # Coordinates are of the centres of pixels, at every size.
    return np.rint(((points + 0.5) * ZOOM - 0.5) * 2**_SHIFT).astype(np.int32)
