"""Tombstones: keep images and labels that were erased on request from being stored again.

A client may send a label again long after its first attempt. Without tombstones a retry that
comes after the erasure would store the person's image anew. A tombstone holds a digest of an
image's SHA-256 or of a label's idempotency key, made with a secret key of the database.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from psycopg import AsyncConnection

from services.feedback.images import queries
from shared.errors import PreconditionFailed


@dataclass(frozen=True, slots=True)
class Tombstones:
    """Which of some images and labels were erased on request, and when.

    Attributes:
        images: By hex SHA-256.
        keys: By idempotency key.
    """

    images: dict[str, datetime]
    keys: dict[str, datetime]

    def check_image(self, field: str, sha256: str) -> None:
        """Check that an image that is not stored may be.

        Raises:
            PreconditionFailed: If it was erased.
        """
        if erased_at := self.images.get(sha256):
            raise PreconditionFailed(_refusal(f"{field}: image {sha256}", erased_at))

    def check_key(self, key: str) -> None:
        """Check that a label with an idempotency key that is not stored may be.

        Raises:
            PreconditionFailed: If a label with this key was erased.
        """
        if erased_at := self.keys.get(key):
            raise PreconditionFailed(_refusal(f"idempotency_key: the label {key!r}", erased_at))


def image_mark(sha256: bytes) -> bytes:
    """Give what the digest of an image is made from."""
    return b"image " + sha256


def label_mark(idempotency_key: str) -> bytes:
    """Give what the digest of a label is made from."""
    return b"label " + idempotency_key.encode()


async def read_tombstones(
    connection: AsyncConnection, hashes: Collection[str], keys: Collection[str] = ()
) -> Tombstones:
    """Read the tombstones of images (hex SHA-256) and of idempotency keys."""
    images = {image_mark(bytes.fromhex(sha256)): sha256 for sha256 in hashes}
    labels = {label_mark(key): key for key in keys}
    marks = {"marks": [*images, *labels]}
    cursor = await connection.execute(queries.TOMBSTONES, marks)
    found: dict[bytes, datetime] = dict(await cursor.fetchall())
    return Tombstones(
        {sha256: found[mark] for mark, sha256 in images.items() if mark in found},
        {key: found[mark] for mark, key in labels.items() if mark in found},
    )


def _refusal(what: str, erased_at: datetime) -> str:
    return (
        f"{what} was erased on request at {erased_at:%Y-%m-%d %H:%M %Z} and is not stored again"
        " within MAGFACE_FEEDBACK_TOMBSTONE_DAYS of the feedback service; do not send it again, or"
        " have the image allowed (`magface feedback allow-image`) and send it with a new key"
    )
