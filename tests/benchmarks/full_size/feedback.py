"""Feedback of rendered people: the faces and 1,000 labelled pairs of them."""

from pathlib import Path

import numpy as np

from cli.rendering.renderer import render_person
from tests.benchmarks.learning.faces import PAIRS, Crops, PairRows, draw_pairs

_FIRST_PERSON = 5_000_000
_IMAGES_A_PERSON = 4
PEOPLE = 250


def read_faces(file: Path, people: int = PEOPLE) -> Crops:
    """Read the faces of some people, which are rendered by the first call.

    Returns:
        uint8 [4 * people, 112, 112, 3], BGR; those of a person follow each other.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        rendered = [
            render_person(_FIRST_PERSON + person, image)
            for person in range(people)
            for image in range(_IMAGES_A_PERSON)
        ]
        np.save(file, np.stack(rendered))
    crops: Crops = np.load(file)
    return crops


def labelled_pairs(crops: Crops, most: int = PAIRS) -> PairRows:
    """Draw pairs of `read_faces`, half of them genuine: 1,000 unless the people have fewer."""
    people = len(crops) // _IMAGES_A_PERSON
    possible = people * _IMAGES_A_PERSON * (_IMAGES_A_PERSON - 1)
    return draw_pairs(np.repeat(np.arange(people), _IMAGES_A_PERSON), min(most, possible), seed=0)
