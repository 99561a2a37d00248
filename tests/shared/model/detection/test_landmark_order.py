"""Landmarks in a wrong order are refused, and the error names the reading that fits."""

from itertools import permutations

import numpy as np
import pytest
from numpy.typing import NDArray

from shared.errors import InvalidInput
from shared.model.image.align import ARCFACE_TEMPLATE, check_landmarks

FACE = ARCFACE_TEMPLATE * 2 + np.array([40, 30], np.float32)
# Seen from the front: x, y and depth.
HEAD = np.array([[-17.5, -19, -12], [17.5, -19, -12], [0, 0, 10], [-14.5, 20, -6], [14.5, 20, -6]])


def refusal(points: NDArray[np.floating]) -> str:
    with pytest.raises(InvalidInput) as caught:
        check_landmarks(points, "image.landmarks")
    assert caught.value.field == "image.landmarks"
    return caught.value.reason


@pytest.mark.parametrize(
    ("points", "reading"),
    [
        (FACE[[1, 0, 2, 4, 3]], "left and right as the person has them"),
        (FACE[:, ::-1], "x and y swapped"),
        (FACE * [1, -1] + [0, 500], "a y axis that points upwards"),
        (FACE[[2, 0, 1, 3, 4]], "nose, left eye, right eye, left mouth corner, right mouth"),
        (FACE[[0, 2, 1, 3, 4]], "left eye, nose, right eye, left mouth corner, right mouth"),
        (FACE / 500, "between 0 and 1"),
    ],
)
def test_the_reading_that_fits_is_named(points: NDArray[np.floating], reading: str) -> None:
    assert reading in refusal(points)


def test_points_that_are_no_face_fit_no_reading() -> None:
    assert "no order" in refusal(np.array([[0, 0], [100, 1], [200, 3], [300, 2], [400, 0.0]]))


def test_every_order_but_a_turned_face_s_is_refused() -> None:
    # These read as a face turned by a quarter, because eyes and mouth form nearly a square.
    turned = {(0, 1, 2, 3, 4), (1, 4, 2, 0, 3), (3, 0, 2, 4, 1), (4, 3, 2, 1, 0)}
    for order in permutations(range(5)):
        if order not in turned:
            refusal(FACE[list(order)])


@pytest.mark.parametrize("yaw", range(-60, 61, 15))
@pytest.mark.parametrize("roll", [0, 40, 180])
def test_heads_that_look_aside_are_accepted(yaw: int, roll: int) -> None:
    a, b = np.radians([yaw, roll])
    aside = HEAD @ np.array([[np.cos(a), 0, -np.sin(a)], [0, 1, 0], [np.sin(a), 0, np.cos(a)]]).T
    turn = np.array([[np.cos(b), -np.sin(b)], [np.sin(b), np.cos(b)]])
    check_landmarks(aside[:, :2] @ turn.T + 200)
