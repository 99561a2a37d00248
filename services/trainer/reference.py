"""The faces that every version must stay good at."""

from pathlib import Path

import numpy as np

from services.trainer.training import ReferenceFaces
from shared.datasets.folder import read_identities
from shared.model.faces import FaceImage, FaceReader
from shared.settings import ImageLimits


def read_reference(folder: Path, limits: ImageLimits) -> ReferenceFaces:
    """Read a folder per identity of aligned faces.

    Raises:
        InvalidInput: If the folder is empty, or a file in it is no aligned face.
    """
    reader = FaceReader(limits)
    crops, persons = [], []
    for person, images in enumerate(read_identities(folder).values()):
        for image in images:
            crops.append(reader.crop(FaceImage(image.read_bytes(), "aligned"), str(image)))
            persons.append(person)
    return ReferenceFaces(np.stack(crops), np.asarray(persons, np.int64))
