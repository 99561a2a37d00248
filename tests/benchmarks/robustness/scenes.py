"""Random scenes with two faces, of which the larger one should be chosen."""

import numpy as np

from shared.errors import InvalidInput
from shared.model.image.face import Box
from tests.benchmarks.robustness.judgement import Choose
from tests.benchmarks.robustness.people import Person, Picture
from tests.benchmarks.robustness.variants import paste, wall

_SCENE = (900, 1200)
_TRIES = 100


def count_right_choices(choose: Choose, people: list[Person], boxes: list[Box], scenes: int) -> int:
    """Count the scenes in which a procedure chooses the larger face.

    The larger face is 1.5 to 3 times as large as the other one; both lie anywhere.

    Args:
        boxes: Of the faces in the photographs of `people`.
    """
    return sum(_is_right(choose, people, boxes, seed) for seed in range(scenes))


def _is_right(choose: Choose, people: list[Person], boxes: list[Box], seed: int) -> bool:
    rng = np.random.default_rng(seed)
    scene, large = _two_faces(people, boxes, rng)
    try:
        box = choose(scene).box
    except InvalidInput:
        return False
    x, y = box.x + box.width / 2, box.y + box.height / 2
    return large.x < x < large.x + large.width and large.y < y < large.y + large.height


def _two_faces(
    people: list[Person], boxes: list[Box], rng: np.random.Generator
) -> tuple[Picture, Box]:
    """Return a scene, and the box of its larger face."""
    scene = wall(*_SCENE, rng)
    larger, smaller = rng.choice(len(people), 2, replace=False)
    small = float(rng.uniform(50, 130))
    heights = {int(larger): small * float(rng.uniform(1.5, 3)), int(smaller): small}
    taken: list[Box] = []
    for place, height in heights.items():
        box, scale = boxes[place], height / boxes[place].height
        # The photograph around the face, with a margin, so that most scenes have room for both.
        left, top = (max(0, round(v)) for v in (box.x - box.width / 4, box.y - box.height / 4))
        right, bottom = round(box.x + 1.25 * box.width), round(box.y + 1.25 * box.height)
        cut = people[place].photograph[top:bottom, left:right]
        corner = _free_place(cut, scale, taken, rng)
        paste(scene, cut, scale, round(corner.x), round(corner.y))
        taken.append(corner)
    return scene, taken[0]


def _free_place(cut: Picture, scale: float, taken: list[Box], rng: np.random.Generator) -> Box:
    height, width = (side * scale + 1 for side in cut.shape[:2])
    for _ in range(_TRIES):
        x = int(rng.integers(0, int(_SCENE[1] - width)))
        y = int(rng.integers(0, int(_SCENE[0] - height)))
        box = Box(x, y, width, height)
        if all(_apart(box, other) for other in taken):
            return box
    raise AssertionError("there is no room for the second face")


def _apart(a: Box, b: Box) -> bool:
    return (
        a.x + a.width <= b.x
        or b.x + b.width <= a.x
        or a.y + a.height <= b.y
        or b.y + b.height <= a.y
    )
