"""Draws docs/images/rendered_people.png: `python -m tests.shared.datasets.contact_sheet`."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.renderer import render_person

SHEET = Path(__file__).parents[3] / "docs" / "images" / "rendered_people.png"
PEOPLE = (1, 2, 4, 5, 7, 41)
IMAGES = 8


def contact_sheet() -> NDArray[np.uint8]:
    """Six people, one row for each, with images of 72 pixels."""
    rows = [np.hstack([render_person(person, k) for k in range(IMAGES)]) for person in PEOPLE]
    size = (72 * IMAGES, 72 * len(PEOPLE))
    return np.asarray(cv2.resize(np.vstack(rows), size, interpolation=cv2.INTER_AREA), np.uint8)


if __name__ == "__main__":
    SHEET.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(SHEET), contact_sheet(), [cv2.IMWRITE_PNG_COMPRESSION, 9])
