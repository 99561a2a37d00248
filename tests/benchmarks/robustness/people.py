"""People of the robustness benchmark: a photograph of each, and aligned crops to compare it with.

The photographs are those of ``../shared/faces/raw`` where it exists. Rendered people, whose crops
are set into a wall of their border's colours, need no material.
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.renderer import render_person

Picture = NDArray[np.uint8]

_FIRST_RENDERED_PERSON = 7_900_000
_WALL = 250


@dataclass(frozen=True, slots=True)
class Person:
    """One person.

    Attributes:
        name: Of the photograph.
        photograph: uint8 (height, width, 3), BGR, upright.
        same: Aligned crop (112, 112, 3) of another photograph of the person; None if there is none.
        other: Aligned crop of another person.
    """

    name: str
    photograph: Picture
    same: Picture | None
    other: Picture


def photographed_people(material: Path) -> list[Person]:
    """Read the 60 photographs, and crops of the same and of other people.

    Args:
        material: The folder with ``faces/raw`` and ``faces/lfw``.
    """
    people = material / "faces" / "lfw"
    files = sorted((material / "faces" / "raw").glob("*.jpg"))
    names = [file.stem.rsplit("_", 1)[0] for file in files]
    others = sorted(folder for folder in people.iterdir() if folder.name not in names)
    return [
        Person(
            file.stem,
            _read(file),
            next((_read(crop) for crop in _crops(people / name) if crop.name != file.name), None),
            _read(_crops(others[place % len(others)])[0]),
        )
        for place, (file, name) in enumerate(zip(files, names, strict=True))
    ]


def rendered_people(count: int) -> list[Person]:
    """Render people, each on a wall of 250x250 pixels."""
    crops = [
        [render_person(_FIRST_RENDERED_PERSON + person, image) for image in range(2)]
        for person in range(count)
    ]
    return [
        Person(f"rendered {place}", _on_wall(first), second, crops[(place + 1) % count][1])
        for place, (first, second) in enumerate(crops)
    ]


def _on_wall(crop: Picture) -> Picture:
    """Return 250x250 pixels with the crop in the middle and its blurred border around it."""
    side = crop.shape[0]
    before = (_WALL - side) // 2
    after = _WALL - side - before
    wall = cv2.copyMakeBorder(crop, before, after, before, after, cv2.BORDER_REPLICATE)
    blurred = cv2.GaussianBlur(wall, (0, 0), 6)
    blurred[before : before + side, before : before + side] = crop
    return np.asarray(blurred, np.uint8)


def _crops(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"))


def _read(file: Path) -> Picture:
    return np.asarray(cv2.imread(str(file)), np.uint8)
