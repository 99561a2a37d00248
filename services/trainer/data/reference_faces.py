"""Reference faces: the faces on which a new version must not be worse than its parent.

They are stored in the object store under the SHA-256 of their content, and the manifest of a
version names them. A version trained from it is measured on the same faces, on any machine.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from services.trainer.data.arrays import CropArray, IndexArray
from shared.datasets.folder import read_identities
from shared.datasets.groups import folder_groups
from shared.datasets.user_files import read_regular
from shared.errors import InvalidInput
from shared.model.default.crops import default_reference_crops, default_reference_groups
from shared.model.face_check import FaceCheck
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

# Half of the people are trained on, and the other half must be enough to measure on.
_MIN_PEOPLE = 20
# A list of names as JSON. Faces that were stored without groups have no such array.
_GROUPS = "groups"


@dataclass(frozen=True)
class ReferenceFaces:
    """Faces that the parent recognises well and the candidate must go on recognising well.

    Attributes:
        crops: uint8 [N, 112, 112, 3], BGR.
        persons: int64 [N], the identity of each crop.
        sha256: Name under which they are stored; None for faces that are not stored.
        groups: The group of each person by number, "" for none; empty if nobody is in a group.
    """

    crops: CropArray
    persons: IndexArray
    sha256: str | None = None
    groups: tuple[str, ...] = ()

    def describe(self) -> str:
        """Say how many they are."""
        return f"{len(self.crops)} reference faces of {len(np.unique(self.persons))} people"


def read_reference(folder: Path, limits: ImageLimits) -> ReferenceFaces:
    """Read aligned faces from a folder with one subfolder per identity.

    Files that are no aligned face, or show none, are named in the log and left out. A
    ``groups.csv`` in the folder gives the groups of the people; see `read_groups`.

    Raises:
        InvalidInput: If fewer than 20 people have two or more faces, or the groups cannot be read.
    """
    reader, face_check = FaceReader(limits), FaceCheck()
    found = read_identities(folder)
    by_identity = folder_groups(folder, found.images)
    for ignored in by_identity.unusable:
        logger.warning("groups of the reference faces: %s", ignored)
    unusable = list(found.unusable)
    identities: list[list[CropArray]] = []
    groups: list[str] = []
    for identity, images in found.images.items():
        person = []
        for image in images:
            try:
                face = FaceImage(read_regular(image), "aligned")
                crop = reader.read(face, str(image))
                face_check.require_face(crop, face, str(image))
                person.append(crop.pixels)
            except InvalidInput as error:
                unusable.append(error)
        if person:
            identities.append(person)
            groups.append(by_identity.groups.get(identity, ""))
    for left_out in unusable:
        logger.warning("reference face left out: %s", left_out)
    usable = sum(len(crops) > 1 for crops in identities)
    if usable < _MIN_PEOPLE:
        raise InvalidInput(
            str(folder),
            f"holds {usable} people with two or more faces; at least {_MIN_PEOPLE} are needed "
            "to measure whether a version has got worse"
            + (f"; {len(unusable)} files are left out, first {unusable[0]}" if unusable else ""),
        )
    persons = np.repeat(np.arange(len(identities)), [len(crops) for crops in identities])
    return ReferenceFaces(
        np.stack([crop for crops in identities for crop in crops]),
        persons,
        groups=tuple(groups) if any(groups) else (),
    )


def default_reference() -> ReferenceFaces:
    """Return the bundled faces of rendered people, for versions without reference faces."""
    return ReferenceFaces(*default_reference_crops(), groups=default_reference_groups())


def store_reference(objects: ObjectStore, faces: ReferenceFaces) -> ReferenceFaces:
    """Store faces, and return them with the name under which they are stored.

    Raises:
        Unavailable: If the object store cannot be reached.
    """
    arrays: dict[str, NDArray[Any]] = {"crops": faces.crops, "persons": faces.persons}
    if faces.groups:
        arrays[_GROUPS] = np.frombuffer(json.dumps(faces.groups).encode(), np.uint8)
    data = save(arrays)
    sha256 = hashlib.sha256(data).hexdigest()
    key = _key(sha256)
    if not objects.exists(key):
        objects.put(key, data)
    return replace(faces, sha256=sha256)


def load_reference(objects: ObjectStore, sha256: str) -> ReferenceFaces:
    """Read the faces that the manifest of a version names.

    Raises:
        NotFound: If they are not stored.
        CorruptData: If the stored bytes have another hash.
        Unavailable: If the object store cannot be reached.
    """
    arrays = load(objects.get(_key(sha256), sha256=sha256))
    groups = json.loads(arrays[_GROUPS].tobytes()) if _GROUPS in arrays else ()
    return ReferenceFaces(arrays["crops"], arrays["persons"], sha256, tuple(groups))


def _key(sha256: str) -> str:
    return f"reference/{sha256}.safetensors"
