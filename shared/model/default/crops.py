"""The bundled golden and reference crops; see the README beside them."""

from pathlib import Path
from typing import Final
from zipfile import ZipFile

import cv2
import numpy as np
from numpy.typing import NDArray

GOLDEN_CROPS_FILE: Final = Path(__file__).with_name("golden_crops.zip")
REFERENCE_CROPS_FILE: Final = Path(__file__).with_name("reference_crops.zip")


def default_golden_crops() -> NDArray[np.uint8]:
    """Read the faces that a new version's self-check is made of.

    Returns:
        uint8 [3, 112, 112, 3], BGR.
    """
    return _read(GOLDEN_CROPS_FILE)[0]


def default_reference_crops() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Read the faces that a training is held to where nobody has named real ones.

    Returns:
        Crops, uint8 [256, 112, 112, 3], BGR; and who each of them shows, int64 [256].
    """
    return _read(REFERENCE_CROPS_FILE)


def _read(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Decode the images of a zip with a folder per person."""
    with ZipFile(file) as archive:
        names = archive.namelist()
        encoded = [np.frombuffer(archive.read(name), np.uint8) for name in names]
    crops = np.stack([cv2.imdecode(data, cv2.IMREAD_COLOR) for data in encoded])
    persons = np.array([int(name.partition("/")[0]) for name in names], np.int64)
    return crops.astype(np.uint8, copy=False), persons
