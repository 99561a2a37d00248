"""Feedback on rendered people, and checkpoints in memory, for tests of trainings."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np

from cli.rendering.renderer import render_person
from services.trainer.data.labels import LabelledPair
from shared.errors import NotFound
from shared.model.image.face import FaceImage


class Killed(Exception):
    pass


class MemoryCheckpoints:
    """Keeps the latest checkpoint; can raise Killed after a number of epochs."""

    def __init__(self, kill_after: int | None = None) -> None:
        self.kept: bytes | None = None
        self.saved = 0
        self._kill_after = kill_after

    def save(self, file: Path) -> None:
        self.kept = file.read_bytes()
        self.saved += 1
        if self.saved == self._kill_after:
            raise Killed

    def load(self, file: Path) -> bool:
        if self.kept is not None:
            file.write_bytes(self.kept)
        return self.kept is not None


class Rendered:
    """A feedback source: pairs of neighbouring pictures of each person, and of two people."""

    snapshot_id = "snapshot-1"

    def __init__(self, people: Iterable[int], images: int) -> None:
        self._data: dict[str, bytes] = {}
        names = [[self._add(person, image) for image in range(images)] for person in people]
        self._pairs = [
            LabelledPair(own[i], own[i + 1], same=True) for own in names for i in range(images - 1)
        ]
        self._pairs += [
            LabelledPair(one[i], other[i], same=False)
            for one, other in pairwise(names)
            for i in range(images - 1)
        ]

    def flip(self, share: float, seed: int) -> None:
        """Make a share of the labels wrong."""
        wrong = np.random.default_rng(seed).random(len(self._pairs)) < share
        self._pairs = [
            replace(pair, same=bool(pair.same ^ flip))
            for pair, flip in zip(self._pairs, wrong, strict=True)
        ]

    def add_copies(self, person: int, count: int) -> None:
        """Add copies of a person's first picture with noise, each labelled SAME as the last one."""
        picture = render_person(person, 0)
        names = [self._add_picture(picture)]
        for number in range(count):
            noise = np.random.default_rng(number).normal(0, 3, picture.shape)
            names.append(self._add_picture(np.clip(picture + noise, 0, 255).astype(np.uint8)))
        self._pairs += [LabelledPair(one, other, same=True) for one, other in pairwise(names)]

    def _add(self, person: int, image: int) -> str:
        return self._add_picture(render_person(person, image))

    def _add_picture(self, pixels: np.ndarray) -> str:
        png = cv2.imencode(".png", pixels)[1].tobytes()
        sha256 = hashlib.sha256(png).hexdigest()
        self._data[sha256] = png
        return sha256

    def pairs(self) -> Iterator[LabelledPair]:
        return iter(self._pairs)

    def image(self, sha256: str) -> FaceImage:
        if sha256 not in self._data:
            raise NotFound(sha256)
        return FaceImage(self._data[sha256], "aligned")
