"""What is stored already, and what that means for a submission."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from psycopg import AsyncConnection

from services.feedback.images.vault import ImageFacts, facts_from_row
from services.feedback.labels import queries
from services.feedback.labels.types import Label, Opinion, SubmitResult, Submission
from shared.errors import AlreadyExists, NotFound


@dataclass(frozen=True, slots=True)
class StoredLabel:
    label_id: int
    pair_id: int
    submission: Submission


@dataclass(frozen=True, slots=True)
class ExistingState:
    """Images by hash and labels by idempotency key, and what a batch adds to them.

    Attributes:
        new_images: Images that accepted submissions bring.
        accepted: Submissions that may be stored, by key.
    """

    images: dict[str, ImageFacts]
    labels: dict[str, StoredLabel]
    new_images: dict[str, ImageFacts] = field(default_factory=dict)
    accepted: dict[str, Submission] = field(default_factory=dict)

    def judge(self, submission: Submission) -> SubmitResult | None:
        """Give the receipt of a submission that was stored before; otherwise accept it.

        Raises:
            AlreadyExists: If its key was used for something else, or the bytes of an image
                are stored with another alignment.
            NotFound: If an image given by its hash is not stored.
        """
        key = submission.idempotency_key
        if stored := self.labels.get(key):
            _check_same(submission, stored.submission)
            return receipt(submission, stored.label_id, stored.pair_id, created=False)
        if first := self.accepted.get(key):
            _check_same(submission, first)
            return None
        self._check_images(submission)
        new = {one.sha256: one for one in submission.images if one.sha256 not in self.images}
        self.images.update(new)
        self.new_images.update(new)
        self.accepted[key] = submission
        return None

    def _check_images(self, submission: Submission) -> None:
        sent = {facts.sha256: facts for facts in submission.images}
        for name, sha256 in (("image_a", submission.image_a), ("image_b", submission.image_b)):
            here = self.images.get(sha256)
            if here is None and sha256 not in sent:
                raise NotFound(f"{name}.sha256: image {sha256} is not stored; send its bytes")
            if here is not None and sha256 in sent:
                check_alignment(sent[sha256], here, name)


def receipt(submission: Submission, label_id: int, pair_id: int, *, created: bool) -> SubmitResult:
    return SubmitResult(label_id, pair_id, submission.image_a, submission.image_b, created)


async def read_existing_state(connection: AsyncConnection, batch: Sequence[Submission]) -> ExistingState:
    """Read the images and keys that a batch names, as far as they are stored."""
    hashes = [bytes.fromhex(sha256) for sha256 in {sha256 for one in batch for sha256 in one.pair}]
    image_rows = await connection.execute(queries.IMAGES, {"hashes": hashes})
    label_rows = await connection.execute(
        queries.LABELS_BY_KEY, {"keys": [one.idempotency_key for one in batch]}
    )
    images = {facts.sha256: facts for facts in map(facts_from_row, await image_rows.fetchall())}
    labels = {}
    async for label_id, pair_id, a, b, label, annotator, key, sureness, *opinion in label_rows:
        stored = Submission(
            a.hex(), b.hex(), Label(label), annotator, key, _opinion_from_row(*opinion), sureness
        )
        labels[key] = StoredLabel(label_id, pair_id, stored)
    return ExistingState(images, labels)


def _opinion_from_row(
    model_version: str | None, similarity: float, threshold: float
) -> Opinion | None:
    return None if model_version is None else Opinion(model_version, similarity, threshold)


def _check_same(submission: Submission, stored: Submission) -> None:
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


def check_alignment(sent: ImageFacts, here: ImageFacts, name: str) -> None:
    """Check that bytes sent again are meant as they are stored.

    Raises:
        AlreadyExists: If they are not.
    """
    if (here.alignment, here.landmarks) != (sent.alignment, sent.landmarks):
        raise AlreadyExists(
            f"{name}.image: these bytes are stored as image {here.sha256} with other landmarks "
            f"or another alignment ({here.alignment}); crop the face that you mean into a "
            "picture of its own, or name the stored image by its sha256"
        )
