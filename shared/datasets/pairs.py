"""Labelled pairs of face images."""

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.datasets.user_files import read_regular
from shared.errors import InvalidInput
from shared.model.image.face import Alignment, Box, FaceImage, Landmarks
from shared.validation import normal_name

ImageSource = Path | bytes


@dataclass(frozen=True, slots=True)
class Cropping:
    """How an image is cropped, where a pair set says it; see `FaceImage`."""

    alignment: Alignment
    landmarks: Landmarks = ()
    box: Box | None = None


@dataclass(frozen=True, eq=False)
class PairSet:
    """Pairs over a list of distinct images, so that each image is decoded and embedded once.

    Attributes:
        images: The path or the bytes of each file. No image occurs twice, and each is in a pair.
        pairs: int32, (P, 2): indices into ``images``.
        labels: bool, (P,): True for a genuine pair, False for an impostor pair.
        folds: int32, (P,): cross-validation fold of each pair; None where the source has none.
        identities: Name of the person on each image; None where the source does not name all of
            them. If it gives an image several names, the first.
        names: The names that the source gives the two images of each pair, also where it does not
            name all; empty for an unknown one. All are normalised.
        croppings: How images are cropped, by their index; others by their size.

    Raises:
        InvalidInput: If the sizes of the fields do not match, or there is no pair.
    """

    images: tuple[ImageSource, ...]
    pairs: NDArray[np.int32]
    labels: NDArray[np.bool_]
    folds: NDArray[np.int32] | None = None
    identities: tuple[str, ...] | None = None
    croppings: Mapping[int, Cropping] = field(default_factory=dict)
    names: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        count = len(self.labels)
        if count == 0:
            raise InvalidInput("pairs", "there are none")
        if self.pairs.shape != (count, 2):
            raise InvalidInput("pairs", f"are of shape {self.pairs.shape}, not ({count}, 2)")
        if self.pairs.min() < 0 or self.pairs.max() >= len(self.images):
            raise InvalidInput("pairs", f"point outside the {len(self.images)} images")
        unused = len(self.images) - len(np.unique(self.pairs))
        if unused:
            raise InvalidInput("images", f"include {unused} that no pair uses")
        if self.folds is not None and self.folds.shape != (count,):
            raise InvalidInput("folds", f"are of shape {self.folds.shape}, not ({count},)")
        if self.identities is not None and len(self.identities) != len(self.images):
            raise InvalidInput(
                "identities", f"are {len(self.identities)} for {len(self.images)} images"
            )
        if self.names and len(self.names) != count:
            raise InvalidInput("names", f"are of {len(self.names)} pairs, not of {count}")

    def __len__(self) -> int:
        return len(self.labels)

    def data(self, image: int) -> bytes:
        """Return the bytes of the image at an index.

        Raises:
            InvalidInput: If the file cannot be read.
        """
        source = self.images[image]
        return source if isinstance(source, bytes) else read_regular(source)

    def face(self, image: int) -> FaceImage | None:
        """Return the image at an index as it is to be cropped; None if the set does not say how.

        Raises:
            InvalidInput: If the file cannot be read.
        """
        how = self.croppings.get(image)
        if how is None:
            return None
        return FaceImage(self.data(image), how.alignment, how.landmarks, box=how.box)

    def name(self, image: int) -> str:
        """Return the name of the image at an index: its path, or the index if it has none."""
        source = self.images[image]
        return f"image_{image:05d}" if isinstance(source, bytes) else str(source)

    def without(self, left_out: Collection[int]) -> tuple["PairSet", list[int]]:
        """Return the pairs that have none of some images.

        Args:
            left_out: Indices of the images.

        Returns:
            The remaining set, and the former index of each of its images.

        Raises:
            InvalidInput: If no pair remains.
        """
        kept = ~np.isin(self.pairs, list(left_out)).any(axis=1)
        if not kept.any():
            raise InvalidInput("pairs", "there are none of which both images can be used")
        used, pairs = renumber(self.pairs[kept])
        known = enumerate(used)
        remaining = PairSet(
            images=tuple(self.images[image] for image in used),
            pairs=pairs,
            labels=self.labels[kept],
            folds=None if self.folds is None else self.folds[kept],
            identities=self.identities and tuple(self.identities[image] for image in used),
            croppings={new: self.croppings[old] for new, old in known if old in self.croppings},
            names=self.names and tuple(self.names[pair] for pair in np.flatnonzero(kept)),
        )
        return remaining, used


def renumber(pairs: NDArray[np.int32]) -> tuple[list[int], NDArray[np.int32]]:
    """Renumber the images of some pairs without gaps.

    Args:
        pairs: (P, 2), indices of images.

    Returns:
        The indices that occur, in ascending order, and the pairs as positions in that list.
    """
    used, places = np.unique(pairs, return_inverse=True)
    return used.tolist(), places.reshape(pairs.shape).astype(np.int32)


@dataclass
class PairSetBuilder:
    """Builds a PairSet pair by pair; each distinct image gets one index.

    Args:
        source: Name of what the pairs are read from, for errors.
    """

    source: str
    _seen: dict[frozenset[int], tuple[str, bool]] = field(default_factory=dict)
    _places: dict[Hashable, int] = field(default_factory=dict)
    _images: list[ImageSource] = field(default_factory=list)
    _identities: list[str | None] = field(default_factory=list)
    _pairs: list[tuple[int, int]] = field(default_factory=list)
    _labels: list[bool] = field(default_factory=list)
    _folds: list[int] = field(default_factory=list)
    _croppings: dict[int, Cropping] = field(default_factory=dict)
    _names: list[tuple[str, str]] = field(default_factory=list)
    _latest_names: dict[int, str] = field(default_factory=dict)

    def image(
        self,
        source: ImageSource,
        identity: str | None = None,
        cropping: Cropping | None = None,
    ) -> int:
        """Return the index of an image; a new image is added.

        Args:
            source: The image.
            identity: The person on it, if known. The next pair of the image has this name.
            cropping: How it is cropped, if known.
        """
        place = self._places.setdefault(source, len(self._images))
        if place == len(self._images):
            self._images.append(source)
            self._identities.append(None)
            if cropping is not None:
                self._croppings[place] = cropping
        if name := normal_name(identity or ""):
            self._latest_names[place] = name
            self._identities[place] = self._identities[place] or name
        return place

    def pair(
        self, place: str, first: int, second: int, genuine: bool, fold: int | None = None
    ) -> None:
        """Add a pair of images.

        Args:
            place: Where the pair stands in the source, such as ``line 3``.
            first: Index of an image.
            second: Index of the other image.
            genuine: Whether both show one person.
            fold: Cross-validation fold; either all pairs have one or none has.

        Raises:
            InvalidInput: If both images are the same, or an earlier pair has the same images;
                names the place.
        """
        here = f"{self.source}: {place}"
        if first == second:
            raise InvalidInput(here, "compares an image with itself")
        earlier, label = self._seen.setdefault(frozenset((first, second)), (place, genuine))
        if label != genuine:
            raise InvalidInput(here, f"contradicts {earlier}, which has the same images")
        if earlier != place:
            raise InvalidInput(here, f"repeats {earlier}, which has the same images")
        self._pairs.append((first, second))
        self._names.append((self._latest_names.get(first, ""), self._latest_names.get(second, "")))
        self._labels.append(genuine)
        if fold is not None:
            self._folds.append(fold)

    def build(self) -> PairSet:
        """Return the pair set.

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
            croppings=self._croppings,
            names=tuple(self._names),
        )
