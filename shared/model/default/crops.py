"""Readers of the bundled golden and reference crops; see README.md here."""

import json
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

from shared.errors import CorruptData

GOLDEN_CROPS_FILE: Final = Path(__file__).with_name("golden_crops.zip")
REFERENCE_CROPS_FILE: Final = Path(__file__).with_name("reference_crops.zip")
REFERENCE_GROUPS_FILE: Final = Path(__file__).with_name("reference_groups.json")


def default_golden_crops() -> NDArray[np.uint8]:
    """Read the golden crops, which the self-check of an imported version is made of.

    Returns:
        uint8 [3, 112, 112, 3], BGR.
    """
    return _read(GOLDEN_CROPS_FILE)[0]


def default_reference_crops() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the reference crops, which the gate of a training uses when no other are configured.

    Returns:
        Crops, uint8 [256, 112, 112, 3], BGR, and the number of the person on each, int64 [256].
    """
    return _read(REFERENCE_CROPS_FILE)


def default_reference_groups() -> tuple[str, ...]:
    """Read the group of each person in the reference crops, by number."""
    return tuple(json.loads(REFERENCE_GROUPS_FILE.read_text(encoding="utf-8")))


def _read(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decode the images of a zip file with one folder per person."""
    with ZipFile(file) as archive:
        names = archive.namelist()
        crops = np.stack([_decode(archive.read(name), name) for name in names])
    return crops, np.array([int(name.partition("/")[0]) for name in names], np.int64)


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    crop = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if crop is None:
        raise CorruptData(f"OpenCV cannot decode the bundled crop {name}")
    return crop.astype(np.uint8, copy=False)
