"""Photographs with rendered people, in which the face detector finds each of them."""

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.renderer import render_person

# Seed of the person, seed of the image, left and top edge of the crop, and its side, in pixels.
Place = tuple[int, int, int, int, int]

# The large face is the most prominent one by its size and its position. The bundled network tells
# these people apart.
GROUP: tuple[Place, ...] = ((5, 0, 190, 90, 240), (1, 0, 20, 20, 120), (7, 0, 500, 240, 100))


def photograph(*places: Place, width: int = 640, height: int = 420) -> NDArray[np.uint8]:
    """uint8, (height, width, 3), BGR: crops of people on a grey wall."""
    wall = np.full((height, width, 3), (150, 140, 130), np.uint8)
    for person, image, x, y, side in places:
        method = cv2.INTER_AREA if side < 112 else cv2.INTER_CUBIC
        crop = cv2.resize(render_person(person, image), (side, side), interpolation=method)
        wall[y : y + side, x : x + side] = crop
    return wall


def encode_jpeg(pixels: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()
