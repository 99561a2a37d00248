"""Idempotency of labels: compares submissions with the images and keys that are stored."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import AsyncConnection

from services.feedback.images.tombstones import Tombstones, read_tombstones
from services.feedback.images.vault import ImageFacts, facts_from_row
from services.feedback.labels import queries
from services.feedback.labels.types import Label, Opinion, Submission, SubmitResult
from shared.errors import AlreadyExists, NotFound


@dataclass(frozen=True, slots=True)
class StoredLabel:
    """A stored label and the submission that it came from."""

    label_id: int
    pair_id: int
    submission: Submission


@dataclass(frozen=True, slots=True)
class ExistingState:
    """What is stored of a batch, and what the batch adds.

    Attributes:
        images: By hex SHA-256; those that the batch adds are included once accepted.
        labels: By idempotency key.
        tombstones: Of the images and keys that were erased.
        new_images: Images that accepted submissions add, by hex SHA-256.
        accepted: Submissions that are to be stored, by idempotency key.
    """

    images: dict[str, ImageFacts]
    labels: dict[str, StoredLabel]
    tombstones: Tombstones
    new_images: dict[str, ImageFacts] = field(default_factory=dict)
    accepted: dict[str, Submission] = field(default_factory=dict)

    def accept(self, submission: Submission) -> SubmitResult | None:
        """Accept a submission, or give its result if it is stored already.

        Raises:
            AlreadyExists: If the key was used for other content, or the bytes of an image are
                stored with another alignment.
            NotFound: If an image given by its hash is not stored.
            PreconditionFailed: If an image that is not stored, or a label with this key, was
                erased on request.
        """
        key = submission.idempotency_key
        if stored := self.labels.get(key):
            _check_same_content(submission, stored.submission)
            return submit_result(submission, stored.label_id, stored.pair_id, created=False)
        if first := self.accepted.get(key):
            _check_same_content(submission, first)
            return None
        self.tombstones.check_key(key)
        self._check_images(submission)
        new = {
            facts.sha256: facts for facts in submission.images if facts.sha256 not in self.images
        }
        self.images.update(new)
        self.new_images.update(new)
        self.accepted[key] = submission
        return None

    def _check_images(self, submission: Submission) -> None:
        sent = {facts.sha256: facts for facts in submission.images}
        for name, sha256 in (("image_a", submission.image_a), ("image_b", submission.image_b)):
            stored = self.images.get(sha256)
            if stored is None:
                self.tombstones.check_image(name, sha256)
            if stored is None and sha256 not in sent:
                raise NotFound(f"{name}.sha256: image {sha256} is not stored; send its bytes")
            if stored is not None and sha256 in sent:
                check_alignment(sent[sha256], stored, name)


def submit_result(
    submission: Submission, label_id: int, pair_id: int, *, created: bool
) -> SubmitResult:
    """Make the result of a submission whose label is stored."""
    return SubmitResult(label_id, pair_id, submission.image_a, submission.image_b, created)


async def read_existing_state(
    connection: AsyncConnection, batch: Sequence[Submission]
) -> ExistingState:
    """Read the images and idempotency keys of a batch that are stored or were erased."""
    hashes = {sha256 for submission in batch for sha256 in submission.pair}
    keys = [submission.idempotency_key for submission in batch]
    image_rows = await connection.execute(
        queries.IMAGES, {"hashes": [bytes.fromhex(sha256) for sha256 in hashes]}
    )
    label_rows = await connection.execute(queries.LABELS_BY_KEY, {"keys": keys})
    tombstones = await read_tombstones(connection, hashes, keys)
    images = {facts.sha256: facts for facts in map(facts_from_row, await image_rows.fetchall())}
    labels = {}
    async for label_id, pair_id, a, b, label, annotator, key, sureness, *opinion in label_rows:
        stored = Submission(
            a.hex(), b.hex(), Label(label), annotator, key, _opinion_from_row(*opinion), sureness
        )
        labels[key] = StoredLabel(label_id, pair_id, stored)
    return ExistingState(images, labels, tombstones)


def check_alignment(sent: ImageFacts, stored: ImageFacts, name: str) -> None:
    """Check that bytes are sent with the alignment, landmarks and box they are stored with.

    Args:
        sent: Facts of the image that was sent.
        stored: Facts of the stored image with the same bytes.
        name: Of the field in the contract, for the error.

    Raises:
        AlreadyExists: If they differ.
    """
    if (stored.alignment, stored.landmarks, stored.box) != (
        sent.alignment,
        sent.landmarks,
        sent.box,
    ):
        raise AlreadyExists(
            f"{name}.image: these bytes are stored as image {stored.sha256} with another "
            f"alignment ({stored.alignment}), other landmarks or another box; crop the face into "
            "an image of its own, or name the stored image by its sha256"
        )


def _opinion_from_row(
    model_version: str | None, similarity: float, threshold: float
) -> Opinion | None:
    return None if model_version is None else Opinion(model_version, similarity, threshold)


def _check_same_content(submission: Submission, stored: Submission) -> None:
    if _content(submission) != _content(stored):
        raise AlreadyExists(
            f"idempotency_key: {submission.idempotency_key!r} was used by "
            f"{stored.annotator!r} to label the pair {stored.pair[0]}, {stored.pair[1]} "
            f"{stored.label.name}; give each label a key of its own"
        )


def _content(submission: Submission) -> tuple[object, ...]:
    return (
        submission.pair,
        submission.label,
        submission.annotator,
        submission.opinion,
        submission.sureness,
    )
