"""Upload fence: keeps uploads and removals of the same image apart.

An image is an object in the object store and a row in Postgres; no transaction spans both. An
upload writes the object first and then the row. A removal (an erasure, or the sweep of orphans)
adds the hash to table `removals`, deletes the row, deletes the object, and takes the hash off
the table. No interleaving leaves a row without its object:

- Adding to `removals` increments `removal_epoch`. This happens under an advisory lock that
  transactions which add rows share, and that listing removals and deleting rows take
  exclusively.
- An upload reads the epoch before it writes the object, and fails while the hash is in
  `removals`. It adds the row, under the shared lock, only if the epoch is unchanged. Otherwise
  the upload starts again.
- So when a row is added, nothing was listed since its object was written. Anything listed before
  had been deleted and taken off the table before the object was written. A removal that is
  listed later finds the row: the sweep then keeps the image, and an erasure deletes the row too.
- One process owns a removal for a lease that is longer than the deletion of an object can take.
  A late deletion by a first owner therefore cannot hit an object stored after a second owner
  finished.

The lease assumes that the object store does not execute a request long after the client gave it
up. A store that does could delete an image that was uploaded again at that moment. An upload
that dies between object and row leaves an orphan, which the sweep removes.
"""

from collections.abc import Iterable

from psycopg import AsyncConnection, AsyncCursor

from services.feedback.images import queries
from shared.errors import Conflict, Unavailable


async def begin_upload(connection: AsyncConnection, hashes: Iterable[str]) -> int:
    """Read the removal epoch before objects of images are written.

    Args:
        connection: In a transaction.
        hashes: Hex SHA-256 of the images.

    Raises:
        Unavailable: If one of the images is being removed.
    """
    wanted = {"hashes": [bytes.fromhex(sha256) for sha256 in hashes]}
    cursor = await connection.execute(queries.UPLOAD_EPOCH, wanted)
    ((epoch, removed),) = await cursor.fetchall()
    if removed is not None:
        raise Unavailable(f"image {removed.hex()} is being removed; send it again later")
    return int(epoch)


async def enter_fence(connection: AsyncConnection) -> AsyncCursor:
    """Block removals until the transaction ends.

    Returns:
        The cursor for `read_epoch`. In a pipeline, send more statements before reading it.
    """
    await connection.execute(queries.SHARE_REMOVAL_LOCK)
    return await connection.execute(queries.REMOVAL_EPOCH)


async def read_epoch(entered: AsyncCursor) -> int:
    """Read the epoch that holds until the end of the transaction that entered the fence."""
    ((epoch,),) = await entered.fetchall()
    return int(epoch)


async def require_epoch(connection: AsyncConnection, epoch: int) -> None:
    """Enter the fence before rows are added for objects that were written under an epoch.

    Raises:
        Conflict: If the epoch has changed; the upload must start again.
    """
    if await read_epoch(await enter_fence(connection)) != epoch:
        raise Conflict("images were removed while this one was being stored")
