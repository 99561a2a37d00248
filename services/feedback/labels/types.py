"""What feedback is made of."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.feedback.images.vault import ImageFacts
from shared.model.image.face_reader import FaceImage


class Label(StrEnum):
    """What a person says about a pair."""

    SAME = "same"
    DIFFERENT = "different"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a model said about a pair when it was labelled.

    Attributes:
        similarity: Cosine similarity, -1..1.
        threshold: The cosine similarity from which the model says SAME, -1..1.
    """

    model_version: str
    similarity: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Feedback:
    """What a caller sends: each image as a face, or as the hex SHA-256 of a stored one.

    Attributes:
        sureness: How sure the annotator is, 0..1; None when nobody said.
    """

    image_a: FaceImage | str
    image_b: FaceImage | str
    label: Label
    annotator: str
    idempotency_key: str
    opinion: Opinion | None = None
    sureness: float | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """Checked feedback, its images reduced to their facts.

    Attributes:
        image_a: Hex SHA-256, as is image_b; in the caller's order, never equal.
        images: Facts of those of the two whose objects were written for it.
        epoch: Epoch of removals under which they were written; None without any.
    """

    image_a: str
    image_b: str
    label: Label
    annotator: str
    idempotency_key: str
    opinion: Opinion | None = None
    sureness: float | None = None
    images: tuple[ImageFacts, ...] = ()
    epoch: int | None = None

    @property
    def pair(self) -> tuple[str, str]:
        """The two hashes in the order in which pairs are stored."""
        return min(self.image_a, self.image_b), max(self.image_a, self.image_b)


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """What a caller gets for a stored label.

    Attributes:
        created: False when the idempotency key had stored it before.
    """

    label_id: int
    pair_id: int
    image_a: str
    image_b: str
    created: bool


@dataclass(frozen=True, slots=True)
class PairSummary:
    """A pair and what people say about it; image_a sorts before image_b.

    Attributes:
        consensus: None while people are divided or too few.
        confidence: Share of the votes that agree with the consensus; 0 without one.
    """

    pair_id: int
    image_a: str
    image_b: str
    consensus: Label | None
    confidence: float
    votes_same: int
    votes_different: int
    votes_unsure: int
    last_labelled: datetime


@dataclass(frozen=True, slots=True)
class ExportedPair:
    """A pair with a consensus of SAME or DIFFERENT, and the votes behind it, by annotator."""

    image_a: str
    image_b: str
    label: Label
    confidence: float
    votes: dict[str, Label]


@dataclass(frozen=True, slots=True)
class Stats:
    """How much is stored. pairs_undecided have votes, but no consensus of SAME or DIFFERENT."""

    images: int
    labels: int
    annotators: int
    pairs_same: int
    pairs_different: int
    pairs_undecided: int

    @property
    def pairs(self) -> int:
        return self.pairs_same + self.pairs_different + self.pairs_undecided
