"""Pair sets whose figures can be counted by hand, and models without a network."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.datasets.pairs import PairSet
from shared.evaluation.embed import EmbeddedSet
from shared.model.sessions.base import Device, Engine

SIZE = 112


def plane_set(
    similarities: Sequence[float],
    labels: Sequence[bool],
    magnitudes: Sequence[float] | None = None,
    folds: Sequence[int] | None = None,
) -> tuple[PairSet, EmbeddedSet]:
    """Pairs of two images each, whose embeddings have the given similarities.

    Args:
        similarities: One for each pair.
        labels: Whether each pair is genuine.
        magnitudes: Two for each pair; 20 for all when None.
        folds: One for each pair.
    """
    count = len(similarities)
    embeddings = np.array(
        [row for cosine in similarities for row in ([1.0, 0.0], [cosine, math.sqrt(1 - cosine**2)])]
    )
    people = [
        name
        for pair, genuine in enumerate(labels)
        for name in (f"p{pair}", f"p{pair}" if genuine else f"q{pair}")
    ]
    pair_set = PairSet(
        images=tuple(f"image {number}".encode() for number in range(2 * count)),
        pairs=np.arange(2 * count, dtype=np.int32).reshape(count, 2),
        labels=np.array(labels),
        folds=None if folds is None else np.array(folds, np.int32),
        identities=tuple(people),
    )
    given = np.full(2 * count, 20.0) if magnitudes is None else np.array(magnitudes)
    embedded = EmbeddedSet(embeddings.astype(np.float32), given.astype(np.float32), None, 100.0)
    return pair_set, embedded


def random_set(images: int, pairs: int, seed: int = 0) -> PairSet:
    """Random pairs of random people; the content of each image is its number."""
    rng = np.random.default_rng(seed)
    count = max(images // 10, 1)
    people = np.arange(images) % count
    drawn = rng.integers(images, size=(pairs, 2)).astype(np.int32)
    drawn[:images, 0] = np.arange(images)
    # At least every second pair is genuine.
    own = people[drawn[::2, 0]]
    drawn[::2, 1] = own + count * rng.integers(images // count, size=len(own))
    return PairSet(
        images=tuple(str(number).encode() for number in range(images)),
        pairs=drawn,
        labels=people[drawn[:, 0]] == people[drawn[:, 1]],
        identities=tuple(f"p{person}" for person in people),
    )


def numbered_crop(number: int) -> NDArray[np.uint8]:
    """A crop that encodes a number, which `NumberSession` reads; mirroring moves it."""
    crop = np.zeros((SIZE, SIZE, 3), np.uint8)
    crop[0, 0] = [number & 255, number >> 8, 1]
    return crop


class NumberSession:
    """Stand-in for a network: features that depend only on the number in the crop.

    Attributes:
        runs: Size of each batch that was run.
        broken: Numbers for which it gives NaN.
    """

    engine: Engine = "onnxruntime"
    device: Device = "cpu"

    def __init__(self, embedding_size: int = 8, broken: Sequence[int] = ()) -> None:
        self.embedding_size = embedding_size
        self.runs: list[int] = []
        self.broken = broken

    def run(self, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.runs.append(len(crops))
        return np.stack([self.feature(crop) for crop in crops])

    def feature(self, crop: NDArray[np.uint8]) -> NDArray[np.float32]:
        low, high, there = (int(value) for value in crop[0, 0])
        number = low + 256 * high if there else 1_000_000
        if number in self.broken:
            return np.full(self.embedding_size, np.nan, np.float32)
        rng = np.random.default_rng(number)
        return (20 * rng.normal(size=self.embedding_size)).astype(np.float32)
