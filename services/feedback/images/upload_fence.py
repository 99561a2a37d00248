"""How an upload and the removal of the same image stay out of each other's way.

An image is an object and a row, in two stores that no transaction spans. An upload writes the
object and then the row. Whoever removes one (an erasure, the sweep of orphans) lists its hash
in table `removals`, deletes the row, deletes the object, and takes the hash off the list.
No interleaving leaves a row without its object, because:

- Listing raises `removal_epoch`, behind a gate: an advisory lock that appenders share and
  listing and the deletion of rows have alone.
- An upload notes the epoch before it writes the object, and waits while the hash is listed. It
  adds the row, behind the gate, only if the epoch is still the same, and begins anew otherwise.
- So when a row is added nothing was listed since the object was written; and what was listed
  before then was off the list, its object deleted, before the object was written. A removal
  listed later finds the row: the sweep leaves the image alone, an erasure deletes the row too.
- A removal is one process's for a lease that is longer than deleting an object can take, so
  that no late deletion of a first remover hits an object stored after a second one was done.

The lease trusts that a request the client gave up is not carried out by the object store much
later; a store that did so could delete an image uploaded again in that very moment. An upload
that dies between object and row leaves an orphan, which the sweep removes.
"""

from collections.abc import Iterable

from psycopg import AsyncConnection, AsyncCursor

from services.feedback.images import queries
from shared.errors import Conflict, Unavailable


async def begin_upload(connection: AsyncConnection, hashes: Iterable[str]) -> int:
    """Give the epoch under which objects of these images (hex SHA-256) may be written.

    Raises:
        Unavailable: If one of them is being removed now.
    """
    wanted = {"hashes": [bytes.fromhex(sha256) for sha256 in hashes]}
    cursor = await connection.execute(queries.UPLOAD_EPOCH, wanted)
    ((epoch, removed),) = await cursor.fetchall()
    if removed is not None:
        raise Unavailable(f"image {removed.hex()} is being removed at this moment; send it again")
    return int(epoch)


async def pass_gate(connection: AsyncConnection) -> AsyncCursor:
    """Hold off removals until the transaction ends.

    Returns:
        For `read_epoch`, which in a pipeline is best called after more has been sent.
    """
    await connection.execute(queries.SHARE_GATE)
    return await connection.execute(queries.EPOCH)


async def read_epoch(passed: AsyncCursor) -> int:
    """Give the epoch that holds from the passing of the gate until the transaction ends."""
    ((epoch,),) = await passed.fetchall()
    return int(epoch)


async def require_epoch(connection: AsyncConnection, epoch: int) -> None:
    """Pass the gate with objects written under an epoch, before their rows are added.

    Raises:
        Conflict: If another holds by now; the upload must begin anew.
    """
    if await read_epoch(await pass_gate(connection)) != epoch:
        raise Conflict("images were removed while this one was being stored")
