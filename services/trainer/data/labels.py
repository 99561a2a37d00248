"""Labelled pairs of a feedback snapshot, and the interface of their source."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

from shared.model.image.face import FaceImage

# Fewest people to measure on, and fewest genuine pairs of them: with fewer, a gain by chance cannot
# be told from a real one.
MIN_PEOPLE = 10
MIN_GENUINE_PAIRS = 30
# Share of the people with a genuine pair who choose the epoch and the threshold.
VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Vote:
    """One annotator's answer on a pair; `same` is None for unsure."""

    annotator: str
    same: bool | None


@dataclass(frozen=True)
class LabelledPair:
    """Two images, each by its SHA-256, and the consensus on them.

    Attributes:
        same: True when both show the same person.
        confidence: Share of the votes that agree with the label, or the estimated probability
            that the label is correct, 0..1.
        votes: The votes behind the label.
    """

    sha256_a: str
    sha256_b: str
    same: bool
    confidence: float = 1.0
    votes: tuple[Vote, ...] = ()


class FeedbackSource(Protocol):
    """The pairs and images of one feedback snapshot."""

    @property
    def snapshot_id(self) -> str: ...

    def pairs(self) -> Iterator[LabelledPair]:
        """Yield every pair with a consensus: the same pairs in the same order each time."""

    def image(self, sha256: str) -> FaceImage:
        """Return an image as it was sent.

        Raises:
            NotFound: If the snapshot does not hold it.
        """


def images_of(pairs: Iterable[LabelledPair]) -> frozenset[str]:
    """Return the SHA-256 of every image in the pairs."""
    return frozenset(sha for pair in pairs for sha in (pair.sha256_a, pair.sha256_b))
