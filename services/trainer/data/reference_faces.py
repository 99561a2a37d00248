"""Reference faces: those on which no new version may get worse than its parent.

They are stored beside the versions, under the hash of their content, and a version's manifest
names them: what is trained from it is held to the same faces, on whatever machine.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from shared.datasets.folder import read_identities
from shared.errors import InvalidInput
from shared.model.default.crops import default_reference_crops
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits
from shared.storage.objects import ObjectStore


@dataclass(frozen=True)
class ReferenceFaces:
    """Faces that the parent is good at, and the child must stay good at.

    Attributes:
        crops: uint8 N,112,112,3 BGR.
        persons: int64 N, who is on each crop.
        sha256: Name of what is stored of them; None where nothing needs to be.
    """

    crops: NDArray[np.uint8]
    persons: NDArray[np.int64]
    sha256: str | None = None


# Half of them are trained on, and the other half must be enough to measure on.
_FEWEST_PEOPLE = 20


def read_reference(folder: Path, limits: ImageLimits) -> ReferenceFaces:
    """Read a folder per identity of aligned faces.

    Raises:
        InvalidInput: If a file in it is no aligned face, or fewer than twenty people have
            two faces or more.
    """
    reader = FaceReader(limits)
    identities = read_identities(folder)
    paired = sum(len(images) > 1 for images in identities.values())
    if paired < _FEWEST_PEOPLE:
        raise InvalidInput(
            str(folder),
            f"holds {paired} people with two faces or more; to tell whether a version has got "
            f"worse takes {_FEWEST_PEOPLE}",
        )
    crops, persons = [], []
    for person, images in enumerate(identities.values()):
        for image in images:
            crops.append(reader.crop(FaceImage(image.read_bytes(), "aligned"), str(image)))
            persons.append(person)
    return ReferenceFaces(np.stack(crops), np.asarray(persons, np.int64))


def default_reference() -> ReferenceFaces:
    """Give the bundled made-up people, for versions of which nobody has named real ones."""
    return ReferenceFaces(*default_reference_crops())


def keep_reference(objects: ObjectStore, faces: ReferenceFaces) -> ReferenceFaces:
    """Store faces for good, and give them with the name under which they are found again.

    Raises:
        Unavailable: If the object store cannot be reached.
    """
    data = save({"crops": faces.crops, "persons": faces.persons})
    sha256 = hashlib.sha256(data).hexdigest()
    key = _key(sha256)
    if not objects.exists(key):
        objects.put(key, data)
    return replace(faces, sha256=sha256)


def load_reference(objects: ObjectStore, sha256: str) -> ReferenceFaces:
    """Give the faces that a version's manifest names.

    Raises:
        NotFound: If they are not stored.
        CorruptData: If they are not what was stored.
        Unavailable: If the object store cannot be reached.
    """
    arrays = load(objects.get(_key(sha256), sha256=sha256))
    return ReferenceFaces(arrays["crops"], arrays["persons"], sha256)


def _key(sha256: str) -> str:
    return f"reference/{sha256}.safetensors"
