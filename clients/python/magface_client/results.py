"""What calls return. Times are in UTC; a value that the service does not have is None."""

import array
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Generic, Literal, TypeVar

from magface_client.errors import ServiceError
from magface_client.stubs import embedder_pb2

Decision = Literal["same", "different", "unsure"]
LabelName = Literal["same", "different", "unsure"]

_Key = TypeVar("_Key")


@dataclass(frozen=True)
class FaceBox:
    """An upright rectangle in an image, in pixels after EXIF rotation; x and y are its top left."""

    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class FacePoint:
    """A point in an image, in pixels from the top left corner."""

    x: float
    y: float


@dataclass(frozen=True)
class FoundFace:
    """A face that the detector found.

    Attributes:
        landmarks: Left eye, right eye, nose, left and right mouth corner.
        confidence: Of the detector, 0..1.
    """

    box: FaceBox
    landmarks: tuple[FacePoint, ...]
    confidence: float


@dataclass(frozen=True)
class Face:
    """The embedding of a face. Store `embedding` with `model_version`, and `magnitude` as well.

    Attributes:
        embedding: Unit vector as little-endian float32, 4 bytes for each dimension.
        magnitude: MagFace's measure of quality, without a unit.
        quality: Quantile of the magnitude in a reference set, 0..1.
        faces_found: Number of detected faces; 0 for an aligned crop.
        detected_face: The one of them that was embedded.
        no_face: Whether the crop shows no face; its embedding must not be compared.
        model_version: The version that made it.
    """

    embedding: bytes = field(repr=False)
    magnitude: float
    quality: float
    faces_found: int
    detected_face: FoundFace | None
    no_face: bool
    model_version: str

    @property
    def vector(self) -> tuple[float, ...]:
        """The embedding as numbers."""
        numbers = array.array("f", self.embedding)
        if sys.byteorder == "big":
            numbers.byteswap()
        return tuple(numbers)


@dataclass(frozen=True)
class Verification:
    """Decision whether two faces show the same person. It keeps the images for `contest`.

    Attributes:
        similarity: Cosine similarity, -1..1.
        threshold: A similarity at or above it gives ``same``.
        decision: ``same``, ``different``, or ``unsure`` if a quality is below the minimum.
        face_a: None for a stored embedding, like `face_b`.
        probability: Of the same person, 0..1, at the prior that the operator has set.
        false_match_rate: Share of strangers whose similarity is at least as high, 0..1.
        kept_fmr: The false-match rate that the threshold keeps.
        unsure_reason: Why the decision is ``unsure``; else empty.
    """

    similarity: float
    threshold: float
    decision: Decision
    model_version: str
    face_a: Face | None
    face_b: Face | None
    probability: float | None
    false_match_rate: float | None
    kept_fmr: float | None
    unsure_reason: str
    _request: embedder_pb2.VerifyRequest = field(repr=False, compare=False)
    _id: str = field(repr=False, compare=False)

    def __bool__(self) -> bool:
        """Refuse to be a condition: ``unsure`` is neither true nor false."""
        raise TypeError("compare .decision with 'same', 'different' or 'unsure'")


@dataclass(frozen=True)
class Streamed(Generic[_Key]):
    """The answer to one image of a stream: `face`, or the `error` that refused it."""

    key: _Key
    face: Face | None
    error: ServiceError | OSError | None


@dataclass(frozen=True)
class FacesInImage:
    """The faces in an image, the most prominent first; sizes in pixels after EXIF rotation."""

    width: int
    height: int
    faces: tuple[FoundFace, ...]


@dataclass(frozen=True)
class ServingInfo:
    """The model version that serves.

    Attributes:
        compatible_versions: Other versions whose stored embeddings `verify` accepts.
        pending_version: The version that should serve, if another one does.
        swap_error: Why it does not yet; empty if it does.
        resident_versions: The versions that a call can name.
        target_fmr: The operator's target false-match rate.
    """

    model_version: str
    architecture: str
    embedding_size: int
    threshold: float
    engine: str
    serving_since: datetime | None
    compatible_versions: tuple[str, ...]
    pending_version: str
    swap_error: str
    resident_versions: tuple[str, ...]
    target_fmr: float | None
    kept_fmr: float | None
    prior: float
    serving_generation: int


@dataclass(frozen=True)
class Receipt:
    """A stored label.

    Attributes:
        created: False if an earlier call with the same key stored it.
        named_otherwise: SHA-256 of the images that have another identity beside the one sent.
        idempotency_key: The key that the label was stored with.
    """

    label_id: int
    pair_id: int
    sha256_a: str
    sha256_b: str
    created: bool
    named_otherwise: tuple[str, ...]
    idempotency_key: str


@dataclass(frozen=True)
class PairToLabel:
    """A pair that is leased to an annotator until `expires_at`."""

    lease_id: int
    sha256_a: str
    sha256_b: str
    expires_at: datetime | None


@dataclass(frozen=True)
class PairsToLabel:
    """Leased pairs.

    Attributes:
        note: Why there are fewer than asked for; empty otherwise.
        held_until: When a pair that another annotator holds is free again.
    """

    pairs: tuple[PairToLabel, ...]
    note: str
    held_until: datetime | None


@dataclass(frozen=True)
class ImageContent:
    """A stored image: the bytes of its file, and how its face is aligned."""

    data: bytes = field(repr=False)
    alignment: str
    landmarks: tuple[FacePoint, ...]
    box: FaceBox | None


@dataclass(frozen=True)
class StoredPicture:
    """An image of the feedback service, which has no metadata.

    Attributes:
        data_sha256: SHA-256 of `image.data`; another one than it is named by if it was sent with
            metadata.
    """

    image: ImageContent
    data_sha256: str
    stored_at: datetime | None


@dataclass(frozen=True)
class PairRecord:
    """A labelled pair; `consensus` is ``unspecified`` without a majority."""

    pair_id: int
    sha256_a: str
    sha256_b: str
    consensus: str
    confidence: float
    votes_same: int
    votes_different: int
    votes_unsure: int
    last_labelled: datetime | None


@dataclass(frozen=True)
class AuditRecord:
    """An entry of the audit log; `detail` is JSON."""

    audit_id: int
    at: datetime | None
    actor: str
    action: str
    request_id: str
    detail: str


@dataclass(frozen=True)
class CheckRecord:
    """One comparison of the gate."""

    name: str
    passed: bool
    value: float
    limit: float
    detail: str
    low: float | None
    high: float | None
    people: int
    pairs: int
    undecided: bool


@dataclass(frozen=True)
class GateRecord:
    """Whether a version may serve; `missing` says what evidence is missing, if any."""

    passed: bool
    checks: tuple[CheckRecord, ...]
    outcome: str
    missing: str
    target_fmr: float | None


@dataclass(frozen=True)
class JobRecord:
    """A job of the trainer; `progress` is 0..1."""

    job_id: str
    kind: str
    state: str
    requested_by: str
    created_at: datetime | None
    started_at: datetime | None
    ended_at: datetime | None
    progress: float
    message: str
    model_version: str
    gate: GateRecord | None
    stage: str


@dataclass(frozen=True)
class VersionRecord:
    """A model version."""

    model_version: str
    architecture: str
    embedding_size: int
    channel_order: str
    threshold: float
    parent_version: str
    job_id: str
    created_at: datetime | None
    serving: bool
    gate: GateRecord | None
    compatible_versions: tuple[str, ...]
    reference: str


@dataclass(frozen=True)
class PromotionRecord:
    """An entry of the serving history.

    Attributes:
        gate_overridden: Whether the gate had not passed the version.
        restores: The earlier generation whose version it restores; 0 for a promotion.
        target_fmr: The target false-match rate from then on.
    """

    serving_generation: int
    model_version: str
    requested_by: str
    reason: str
    at: datetime | None
    gate_overridden: bool
    restores: int
    target_fmr: float | None


@dataclass(frozen=True)
class OperatingPointRecord:
    """A target false-match rate, and when it came into force; None is no target."""

    target_fmr: float | None
    prior: float
    requested_by: str
    reason: str
    at: datetime | None
    serving_generation: int


@dataclass(frozen=True)
class IntervalRecord:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class FiguresRecord:
    """Figures of a version on labelled pairs; `values` are described in the contract."""

    images: int
    genuine_pairs: int
    impostor_pairs: int
    threshold: float
    tp: int
    tn: int
    fp: int
    fn: int
    values: Mapping[str, float]
    intervals: Mapping[str, IntervalRecord]


@dataclass(frozen=True)
class ComparisonRecord:
    """Comparison with another version on the same pairs."""

    model_version: str
    figures: FiguresRecord | None
    fixed: int
    broken: int
    p_value: float
    difference_intervals: Mapping[str, IntervalRecord]


@dataclass(frozen=True)
class EvaluationRecord:
    """Evaluation of a version on a data snapshot."""

    job_id: str
    model_version: str
    data_snapshot: str
    at: datetime | None
    pairs_trained_on: int
    figures: FiguresRecord | None
    against: ComparisonRecord | None


@dataclass(frozen=True)
class SuspectRecord:
    """A label that may be wrong, with the probability that it is."""

    sha256_a: str
    sha256_b: str
    same: bool
    wrong_probability: float
    reason: str
    annotators: tuple[str, ...]


@dataclass(frozen=True)
class LeftOutRecord:
    """An image that a job did not use."""

    sha256: str
    reason: str
    detail: str
