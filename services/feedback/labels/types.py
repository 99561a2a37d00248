"""Types of labels: submissions, stored pairs and statistics."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from services.feedback.images.subjects import NamedImage
from services.feedback.images.vault import ImageFacts
from shared.model.image.face import FaceImage


class Label(StrEnum):
    """An annotator's answer on a pair."""

    SAME = "same"
    DIFFERENT = "different"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True)
class Opinion:
    """A model's answer on a pair when it was labelled.

    Attributes:
        similarity: Cosine similarity, -1..1.
        threshold: The cosine similarity from which the model says SAME, -1..1.
    """

    model_version: str
    similarity: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Feedback:
    """A label as a caller sends it.

    Attributes:
        image_a: A face, or the hex SHA-256 of a stored image; image_b likewise.
        sureness: How sure the annotator is, 0..1; None if unknown.
        identity_a: The person on image_a, normalised; empty if unknown. identity_b likewise.
    """

    image_a: FaceImage | str
    image_b: FaceImage | str
    label: Label
    annotator: str
    idempotency_key: str
    opinion: Opinion | None = None
    sureness: float | None = None
    identity_a: str = ""
    identity_b: str = ""


@dataclass(frozen=True, slots=True)
class Submission:
    """Checked feedback, with facts in place of the images' bytes.

    Attributes:
        image_a: Hex SHA-256, as is image_b; in the caller's order, never equal.
        images: Facts of those of the two images whose objects were written for it.
        epoch: Removal epoch under which the objects were written; None without any.
        subjects: Names of the people on the two images, as far as known. They are no part of the
            label: a repeated submission may add others.
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
    subjects: tuple[NamedImage, ...] = ()

    @property
    def pair(self) -> tuple[str, str]:
        """The two hashes in the order in which pairs are stored."""
        return min(self.image_a, self.image_b), max(self.image_a, self.image_b)


@dataclass(frozen=True, slots=True)
class SubmitResult:
    """A stored label.

    Attributes:
        image_a: Hex SHA-256, as is image_b; in the caller's order.
        created: False if the idempotency key had stored it before.
        named_otherwise: Those of the two images that have another name beside the one sent.
    """

    label_id: int
    pair_id: int
    image_a: str
    image_b: str
    created: bool
    named_otherwise: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PairSummary:
    """A pair and its votes; image_a sorts before image_b.

    Attributes:
        consensus: None without a majority or with too few votes.
        confidence: Share of the votes that agree with the consensus, 0..1; 0 without one.
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
    """A pair with a consensus of SAME or DIFFERENT, and its votes by annotator."""

    image_a: str
    image_b: str
    label: Label
    confidence: float
    votes: dict[str, Label]


@dataclass(frozen=True, slots=True)
class Stats:
    """Counts of what is stored.

    Attributes:
        pairs_undecided: Pairs with votes and without a consensus of SAME or DIFFERENT.
        damaged_images: Images whose object is known to be missing or damaged.
    """

    images: int
    labels: int
    annotators: int
    pairs_same: int
    pairs_different: int
    pairs_undecided: int
    damaged_images: int

    @property
    def pairs(self) -> int:
        return self.pairs_same + self.pairs_different + self.pairs_undecided
