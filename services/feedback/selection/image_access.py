"""Which stored images a caller with a token may read, and label by their hash."""

from collections.abc import Collection

from services.feedback.selection import queries
from shared.errors import PermissionDenied
from shared.rpc.access.caller import Caller
from shared.storage.postgres import Pool, fetch, transaction


class ImageAccess:
    """Holds annotators to the images that are leased to them or that they sent themselves.

    Labelling clients may use the images that are leased to any annotator. Without a token everybody
    may use all images.

    Args:
        pool: Connections to a database with the schema `feedback`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def require(self, caller: Caller | None, hashes: Collection[str]) -> None:
        """Check that a caller may use images.

        Args:
            caller: Who calls; None without a token.
            hashes: Hex SHA-256 of the images, stored or not.

        Raises:
            PermissionDenied: If the caller may not; it does not tell whether they are stored.
        """
        if caller is None or caller.may_read_all_images or not hashes:
            return
        wanted = {bytes.fromhex(sha256) for sha256 in hashes}
        annotator = None if caller.may_name_others else caller.subject
        found = await fetch(
            self._pool,
            queries.OPEN_IMAGES,
            {"hashes": list(wanted), "uploader": caller.subject, "annotator": annotator},
        )
        if missing := wanted - {bytes(sha256) for (sha256,) in found}:
            raise PermissionDenied(
                f"image {min(missing).hex()} is not leased and was not sent by {caller.subject!r}"
            )

    async def note_sent(self, caller: Caller | None, hashes: Collection[str]) -> None:
        """Record that a caller has sent the bytes of stored images.

        Args:
            caller: Who calls; nothing is recorded without a token.
            hashes: Hex SHA-256 of the images.
        """
        if caller is None or not hashes:
            return
        sent = {"uploader": caller.subject, "hashes": [bytes.fromhex(one) for one in hashes]}
        async with transaction(self._pool) as connection:
            await connection.execute(queries.NOTE_UPLOADS, sent)
