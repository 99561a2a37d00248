"""The golden and reference crops that are bundled in `shared.model.default`, and their groups."""

import json
from pathlib import Path
from typing import Final
from zipfile import ZipFile, ZipInfo

import cv2
import numpy as np
from numpy.typing import NDArray

from cli.rendering.renderer import render_person
from cli.rendering.traits import draw_traits, skin_tone
from shared.model.default.crops import (
    GOLDEN_CROPS_FILE,
    REFERENCE_CROPS_FILE,
    REFERENCE_GROUPS_FILE,
)

# Seeds that no demo, benchmark or user is likely to choose.
_FIRST_GOLDEN_PERSON: Final = 7_700_000
_FIRST_REFERENCE_PERSON: Final = 7_800_000
_REFERENCE_PEOPLE: Final = 64
_IMAGES_A_PERSON: Final = 4
# OpenCV writes WebP without loss at a quality above 100.
_LOSSLESS: Final = (cv2.IMWRITE_WEBP_QUALITY, 101)


def render_golden_crops(n: int = 3) -> NDArray[np.uint8]:
    """Render the faces for the self-check of a new version.

    Returns:
        uint8 [n, 112, 112, 3], BGR.
    """
    return np.stack([render_person(_FIRST_GOLDEN_PERSON + person, 0) for person in range(n)])


def render_reference_crops() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Render the reference faces of trainings, for use where there are no real ones.

    Returns:
        Crops, uint8 [256, 112, 112, 3], BGR, and the person in each of them, int64 [256].
    """
    crops = [
        render_person(_FIRST_REFERENCE_PERSON + person, image)
        for person in range(_REFERENCE_PEOPLE)
        for image in range(_IMAGES_A_PERSON)
    ]
    return np.stack(crops), np.repeat(np.arange(_REFERENCE_PEOPLE), _IMAGES_A_PERSON)


def groups_of_reference_people() -> list[str]:
    """Return the skin tone of each person in the reference crops."""
    return [
        skin_tone(draw_traits(_FIRST_REFERENCE_PERSON + person))
        for person in range(_REFERENCE_PEOPLE)
    ]


def write_bundled_crops() -> None:
    """Write the crops and groups of `shared.model.default`; the same ones give the same files."""
    golden = render_golden_crops()
    _write(GOLDEN_CROPS_FILE, golden, np.arange(len(golden)))
    _write(REFERENCE_CROPS_FILE, *render_reference_crops())
    groups = json.dumps(groups_of_reference_people(), indent=0)
    REFERENCE_GROUPS_FILE.write_text(f"{groups}\n", encoding="utf-8")


def _write(file: Path, crops: NDArray[np.uint8], persons: NDArray[np.int64]) -> None:
    with ZipFile(file, "w") as archive:
        for number, (crop, person) in enumerate(zip(crops, persons, strict=True)):
            # The default ZipInfo has a fixed date.
            entry = ZipInfo(f"{person:03d}/{number:04d}.webp")
            archive.writestr(entry, cv2.imencode(".webp", crop, _LOSSLESS)[1].tobytes())
