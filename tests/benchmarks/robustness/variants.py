"""Variants of a photograph: turned, tilted, resized, set into a large picture, cut."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import cv2
import numpy as np

from shared.model.image.face import Box
from tests.benchmarks.robustness.people import Picture

Side = Literal["left", "right", "top", "bottom"]
SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")
_LARGE = (3000, 4000)
# Side of the square of noise that a background repeats.
_GRAIN = 256


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to change a photograph.

    Attributes:
        name: Of the row in the table.
        make: Takes the photograph, the box of its face and a generator seeded by the person.
    """

    name: str
    make: Callable[[Picture, Box, np.random.Generator], Picture]

    def of_all(self, photographs: list[Picture], boxes: list[Box]) -> Iterator[Picture]:
        """Change all photographs, each with a seed of its own."""
        for place, (photograph, box) in enumerate(zip(photographs, boxes, strict=True)):
            yield self.make(photograph, box, np.random.default_rng(place))


def variants() -> list[Variant]:
    """Return all variants of the benchmark, in the order of the table."""
    return [
        *(Variant(f"turned by {turn}°", partial(_turn, turn)) for turn in (90, 180, 270)),
        *(
            Variant(f"tilted by {sign}{angle}°", partial(_tilt, float(f"{sign}{angle}")))
            for angle in (15, 30, 45)
            for sign in ("+", "-")
        ),
        Variant("turned by any angle", _turn_anyhow),
        *(Variant(f"x{factor:g}", partial(_resize, factor)) for factor in (4, 12, 0.5)),
        *(
            Variant(f"12 MP, face {percent} % of the height", partial(_scene, percent / 100))
            for percent in (8, 4, 3, 2)
        ),
        *(
            Variant(f"{percent} % cut on the {side}", partial(_cut, percent / 100, side))
            for percent in (15, 30)
            for side in SIDES
        ),
    ]


def tilt(picture: Picture, degrees: float, border: int = cv2.BORDER_CONSTANT) -> Picture:
    """Turn a picture counter-clockwise, on a canvas that holds all of it."""
    height, width = picture.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), degrees, 1.0)
    cos, sin = abs(matrix[0, 0]), abs(matrix[0, 1])
    size = (round(width * cos + height * sin), round(width * sin + height * cos))
    matrix[:, 2] += [(size[0] - width) / 2, (size[1] - height) / 2]
    turned = cv2.warpAffine(picture, matrix, size, flags=cv2.INTER_CUBIC, borderMode=border)
    return np.asarray(turned, np.uint8)


def wall(height: int, width: int, rng: np.random.Generator) -> Picture:
    """Return a background without faces: soft patches of colour, with some grain."""
    coarse = rng.integers(40, 215, (9, 12, 3), np.uint8)
    soft = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    tiles = (height // _GRAIN + 1, width // _GRAIN + 1, 1)
    grain = np.tile(rng.integers(0, 13, (_GRAIN, _GRAIN, 3), np.uint8), tiles)
    return np.asarray(cv2.add(soft, grain[:height, :width]), np.uint8)


def paste(large: Picture, photograph: Picture, scale: float, x: int, y: int) -> None:
    """Set a resized photograph into a larger picture."""
    small = _resize_to(photograph, scale)
    large[y : y + small.shape[0], x : x + small.shape[1]] = small


def _turn(degrees: int, picture: Picture, _: Box, __: np.random.Generator) -> Picture:
    return np.ascontiguousarray(np.rot90(picture, degrees // 90))


def _tilt(degrees: float, picture: Picture, _: Box, __: np.random.Generator) -> Picture:
    return tilt(picture, degrees)


def _turn_anyhow(picture: Picture, _: Box, rng: np.random.Generator) -> Picture:
    return tilt(picture, float(rng.uniform(0, 360)))


def _resize(factor: float, picture: Picture, _: Box, __: np.random.Generator) -> Picture:
    return _resize_to(picture, factor)


def _resize_to(picture: Picture, factor: float) -> Picture:
    method = cv2.INTER_AREA if factor < 1 else cv2.INTER_CUBIC
    resized = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=method)
    return np.asarray(resized, np.uint8)


def _scene(share: float, picture: Picture, box: Box, rng: np.random.Generator) -> Picture:
    """Set the photograph at a random place into 12 megapixels, its face a share of the height."""
    large = wall(*_LARGE, rng)
    scale = share * _LARGE[0] / box.height
    height, width = (round(side * scale) + 1 for side in picture.shape[:2])
    x, y = rng.integers(0, _LARGE[1] - width), rng.integers(0, _LARGE[0] - height)
    paste(large, picture, scale, int(x), int(y))
    return large


def _cut(share: float, side: Side, picture: Picture, box: Box, _: np.random.Generator) -> Picture:
    """Remove a share of the face with all that lies on that side of it."""
    height, width = picture.shape[:2]
    left = round(box.x + share * box.width) if side == "left" else 0
    right = round(box.x + (1 - share) * box.width) if side == "right" else width
    top = round(box.y + share * box.height) if side == "top" else 0
    bottom = round(box.y + (1 - share) * box.height) if side == "bottom" else height
    return np.ascontiguousarray(picture[top:bottom, left:right])
