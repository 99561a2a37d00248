"""People for training, calibration and testing, without overlap."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cli.rendering.renderer import render_person
from shared.datasets.folder import read_identities, split_identities
from shared.errors import PreconditionFailed
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits
from tests.benchmarks.learning.degradation import degrade

_IMAGES_A_PERSON = 8
_LEAST_PEOPLE = 120
_RENDERED = {"training": (3_000_000, 250), "calibration": (1_000_000, 60), "test": (2_000_000, 120)}
_RENDERED_IMAGES = 4
PAIRS = 1000

Crops = NDArray[np.uint8]


@dataclass(frozen=True)
class People:
    """Faces of some people.

    Attributes:
        views: The same N faces in several qualities, by name: uint8 [N, 112, 112, 3], BGR.
        persons: int64 [N], the person in each image.
    """

    views: dict[str, Crops]
    persons: NDArray[np.int64]


Split = dict[str, People]


def real_people(folder: Path, seed: int) -> Split:
    """Split a folder's people: 320 for training, 30 for calibration, 70 for testing.

    A smaller folder is split in the same proportions; a larger one has more test people.

    Args:
        folder: Has a folder of aligned crops per identity.
        seed: Seed of the split.

    Returns:
        "training", "calibration" and "test", each with the views "clean" and "degraded".

    Raises:
        PreconditionFailed: Too few people have two images.
    """
    identities = {
        k: v[:_IMAGES_A_PERSON] for k, v in read_identities(folder).images.items() if len(v) > 1
    }
    count = len(identities)
    if count < _LEAST_PEOPLE:
        raise PreconditionFailed(
            f"{folder} has {count} people with two images or more; the benchmark needs "
            f"{_LEAST_PEOPLE}"
        )
    training = min(320, count * 320 // 420)
    calibration = min(100, (count - training) * 3 // 10)
    test = min(300, count - training - calibration)
    sizes = {"training": training, "calibration": calibration, "test": test}
    reader = FaceReader(ImageLimits())
    return {
        name: read_people(folder, {person: identities[person] for person in persons}, reader)
        for name, persons in split_identities(identities, sizes, seed).items()
    }


def read_people(folder: Path, identities: dict[str, list[Path]], reader: FaceReader) -> People:
    """Read aligned crops, and degrade each of them.

    Args:
        folder: Has a folder per identity.
        identities: The files of each person.
        reader: Decodes the files.

    Returns:
        The views "clean" and "degraded".
    """
    files = [(person, file) for person, own in enumerate(identities.values()) for file in own]
    clean = np.stack(
        [reader.crop(FaceImage(file.read_bytes(), "aligned"), str(file)) for _, file in files]
    )
    names = [file.relative_to(folder).as_posix().encode() for _, file in files]
    degraded = np.stack(
        [degrade(crop, zlib.crc32(name)) for crop, name in zip(clean, names, strict=True)]
    )
    return People(
        {"clean": clean, "degraded": degraded}, np.array([person for person, _ in files], np.int64)
    )


def rendered_people() -> Split:
    """Render the same people each time, split like `real_people`; their view is "rendered"."""
    return {name: _render(first, count) for name, (first, count) in _RENDERED.items()}


def _render(first: int, count: int) -> People:
    persons = np.repeat(np.arange(count), _RENDERED_IMAGES)
    crops = [
        render_person(first + person, image)
        for person in range(count)
        for image in range(_RENDERED_IMAGES)
    ]
    return People({"rendered": np.stack(crops)}, persons)


@dataclass(frozen=True)
class PairRows:
    """Pairs of images with their labels.

    Attributes:
        rows: int64 [P, 2], row numbers of the images.
        same: bool [P], the label: whether both images show the same person.
    """

    rows: NDArray[np.int64]
    same: NDArray[np.bool_]

    def subset(self, places: NDArray[np.int64]) -> "PairRows":
        return PairRows(self.rows[places], self.same[places])

    def with_wrong_labels(self, share: float, seed: int) -> "PairRows":
        wrong = np.random.default_rng(seed).random(len(self.same)) < share
        return PairRows(self.rows, self.same ^ wrong)


def draw_pairs(persons: NDArray[np.int64], count: int, seed: int) -> PairRows:
    """Draw distinct pairs, half of them genuine; persons are drawn first, then their images."""
    rng = np.random.default_rng(seed)
    images = [np.flatnonzero(persons == person) for person in np.unique(persons)]
    drawn: dict[tuple[int, int], bool] = {}
    possible = sum(len(own) * (len(own) - 1) // 2 for own in images)
    genuine = min(count // 2, possible)
    while len(drawn) < genuine:
        own = images[rng.integers(len(images))]
        first, second = sorted(rng.choice(own, 2, replace=False).tolist())
        drawn[first, second] = True
    while len(drawn) < genuine + count // 2:
        one, other = rng.choice(len(images), 2, replace=False)
        first, second = sorted([int(rng.choice(images[one])), int(rng.choice(images[other]))])
        drawn[first, second] = False
    order = rng.permutation(len(drawn))
    return PairRows(np.array(list(drawn), np.int64)[order], np.array(list(drawn.values()))[order])
