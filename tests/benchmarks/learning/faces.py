"""Whom the learning benchmark trains on, calibrates on and tests on; nobody is in two."""

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cli.demo.rendering.renderer import render_person
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
        views: By name, the same N faces as uint8 [N, 112, 112, 3], BGR.
        persons: int64 [N], who is on each.
    """

    views: dict[str, Crops]
    persons: NDArray[np.int64]


Split = dict[str, People]


def real_people(folder: Path, seed: int) -> Split:
    """Deal a folder's people out: 320 to train on, thirty to calibrate on, seventy to test on.

    A smaller folder is dealt out in the same proportions; of a larger one more are tested.

    Args:
        folder: One folder an identity, of aligned crops.
        seed: Who goes where.

    Returns:
        "training", "calibration" and "test", each seen "clean" and "degraded".

    Raises:
        PreconditionFailed: If there are too few people with two images.
    """
    identities = {k: v[:_IMAGES_A_PERSON] for k, v in read_identities(folder).items() if len(v) > 1}
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
        name: _read(folder, {person: identities[person] for person in persons}, reader)
        for name, persons in split_identities(identities, sizes, seed).items()
    }


def _read(folder: Path, identities: dict[str, list[Path]], reader: FaceReader) -> People:
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
    """The same rendered people each time, dealt out like `real_people`, seen as "rendered"."""
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
class LabelledPairs:
    """Pairs of images by their row, and what people say of them.

    Attributes:
        rows: int64 [P, 2].
        same: bool [P].
    """

    rows: NDArray[np.int64]
    same: NDArray[np.bool_]

    def only(self, places: NDArray[np.int64]) -> "LabelledPairs":
        return LabelledPairs(self.rows[places], self.same[places])

    def with_wrong_labels(self, share: float, seed: int) -> "LabelledPairs":
        wrong = np.random.default_rng(seed).random(len(self.same)) < share
        return LabelledPairs(self.rows, self.same ^ wrong)


def draw_pairs(persons: NDArray[np.int64], count: int, seed: int) -> LabelledPairs:
    """Draw distinct pairs, half of them genuine, person by person and not image by image."""
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
    return LabelledPairs(
        np.array(list(drawn), np.int64)[order], np.array(list(drawn.values()))[order]
    )
