"""Labelled pairs of face images, whatever file they came from."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.errors import InvalidInput

ImageSource = Path | bytes


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs over distinct images, so that each image is decoded and embedded once.

    Attributes:
        images: Each a file's path or the file's bytes; no image is listed twice, and each
            is in a pair, so that nothing is embedded for nothing.
        pairs: int32, (P, 2): places in ``images``.
        labels: bool, (P,): True for a genuine pair, False for an impostor pair.
        folds: int32, (P,): cross-validation fold of each pair; None where the source has none.
        identities: Who is on each image; None where the source does not say.

    Raises:
        InvalidInput: If the parts do not fit each other, or there is no pair.
    """

    images: tuple[ImageSource, ...]
    pairs: NDArray[np.int32]
    labels: NDArray[np.bool_]
    folds: NDArray[np.int32] | None = None
    identities: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        count = len(self.labels)
        if count == 0:
            raise InvalidInput("pairs", "there is not one")
        if self.pairs.shape != (count, 2):
            raise InvalidInput("pairs", f"are of shape {self.pairs.shape}, not ({count}, 2)")
        if self.pairs.min() < 0 or self.pairs.max() >= len(self.images):
            raise InvalidInput("pairs", f"point outside the {len(self.images)} images")
        unused = len(self.images) - len(np.unique(self.pairs))
        if unused:
            raise InvalidInput("images", f"hold {unused} that no pair uses")
        if self.folds is not None and self.folds.shape != (count,):
            raise InvalidInput("folds", f"are of shape {self.folds.shape}, not ({count},)")
        if self.identities is not None and len(self.identities) != len(self.images):
            raise InvalidInput(
                "identities", f"are {len(self.identities)} for {len(self.images)} images"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def data(self, image: int) -> bytes:
        """Bytes of the file at a place in ``images``.

        Raises:
            InvalidInput: If the file cannot be read.
        """
        source = self.images[image]
        if isinstance(source, bytes):
            return source
        try:
            return source.read_bytes()
        except OSError as error:
            raise InvalidInput(str(source), f"cannot be read: {error.strerror}") from error

    def name(self, image: int) -> str:
        """What to call an image: its path, or its place where it has none."""
        source = self.images[image]
        return f"image_{image:05d}" if isinstance(source, bytes) else str(source)


def renumber(pairs: NDArray[np.int32]) -> tuple[list[int], NDArray[np.int32]]:
    """Number anew the images that some pair uses.

    Args:
        pairs: (P, 2), places among some images.

    Returns:
        The places that occur, rising, and the pairs as places among those.
    """
    used, places = np.unique(pairs, return_inverse=True)
    return used.tolist(), places.reshape(pairs.shape).astype(np.int32)


@dataclass
class PairSetBuilder:
    """Collects pairs one by one and gives each distinct image one place."""

    _places: dict[Hashable, int] = field(default_factory=dict)
    _images: list[ImageSource] = field(default_factory=list)
    _identities: list[str | None] = field(default_factory=list)
    _pairs: list[tuple[int, int]] = field(default_factory=list)
    _labels: list[bool] = field(default_factory=list)
    _folds: list[int] = field(default_factory=list)

    def image(self, source: ImageSource, identity: str | None = None) -> int:
        """Place of an image, a new one if it has not been seen."""
        place = self._places.setdefault(source, len(self._images))
        if place == len(self._images):
            self._images.append(source)
            self._identities.append(identity)
        return place

    def pair(self, first: int, second: int, genuine: bool, fold: int | None = None) -> None:
        """Add a pair of places; either all pairs have a fold or none has."""
        self._pairs.append((first, second))
        self._labels.append(genuine)
        if fold is not None:
            self._folds.append(fold)

    def build(self) -> PairSet:
        """Make the set.

        Raises:
            InvalidInput: If there is no pair.
        """
        known = [identity for identity in self._identities if identity is not None]
        return PairSet(
            images=tuple(self._images),
            pairs=np.array(self._pairs, dtype=np.int32).reshape(-1, 2),
            labels=np.array(self._labels, dtype=np.bool_),
            folds=np.array(self._folds, dtype=np.int32) if self._folds else None,
            identities=tuple(known) if len(known) == len(self._images) else None,
        )
