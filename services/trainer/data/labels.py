"""Labelled pairs of a feedback snapshot, and the source that yields them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from shared.model.image.face import FaceImage


@dataclass(frozen=True)
class Vote:
    """What one annotator said of a pair; `same` is None for unsure."""

    annotator: str
    same: bool | None


@dataclass(frozen=True)
class LabelledPair:
    """Two images, by hash, and the consensus on them.

    Attributes:
        same: True when they show one person.
        confidence: Share of the votes that agree, or the estimated probability that the label
            is right, 0..1.
        votes: The votes behind it.
    """

    sha256_a: str
    sha256_b: str
    same: bool
    confidence: float = 1.0
    votes: tuple[Vote, ...] = ()


def images_of(pairs: Iterable[LabelledPair]) -> frozenset[str]:
    """Hashes of the images of some pairs."""
    return frozenset(sha for pair in pairs for sha in (pair.sha256_a, pair.sha256_b))


class FeedbackSource(Protocol):
    """One frozen snapshot of the feedback."""

    @property
    def snapshot_id(self) -> str: ...

    def pairs(self) -> Iterator[LabelledPair]:
        """Give every pair with a consensus, the same ones in the same order each time."""

    def image(self, sha256: str) -> FaceImage:
        """Fetch an image as it was sent.

        Raises:
            NotFound: If the snapshot does not hold it.
        """


# With fewer, luck looks like learning.
MIN_PEOPLE = 10
