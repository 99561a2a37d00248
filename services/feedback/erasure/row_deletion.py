"""Deletes the rows of images: what was said about them, what follows from it, themselves."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from psycopg import AsyncConnection

from services.feedback.erasure import queries
from services.feedback.labels import consensus_view as derive

_PAIRS_AT_ONCE: Final = 2000


async def delete_rows(
    connection: AsyncConnection, request_id: str, hashes: Sequence[bytes]
) -> bool:
    """Delete images with their pairs and labels, in a transaction that has the gate alone.

    What the erasure has to tell later is kept with it: how much went, and which snapshots
    were taken while there were labels. Tables beyond those named here refer to images and
    pairs with ON DELETE CASCADE.

    Returns:
        Whether that was all. Otherwise some pairs went and the images are still there: no
        image is in so many pairs that a transaction would take too long.
    """
    named = {"request_id": request_id, "hashes": list(hashes)}
    cursor = await connection.execute(queries.STILL_LISTED, named)
    # One that is not listed any more was erased by another, and may have come back since.
    images = {"hashes": [sha256 for (sha256,) in await cursor.fetchall()]}
    cursor = await connection.execute(queries.PAIRS_OF_IMAGES, {**images, "limit": _PAIRS_AT_ONCE})
    pairs = {pair_id: (a, b) for pair_id, a, b in await cursor.fetchall()}
    await connection.execute(queries.ALLOW_REMOVAL)
    erased = await _delete_pairs(connection, request_id, set(images["hashes"]), pairs)
    finished = len(pairs) < _PAIRS_AT_ONCE
    if finished:
        cursor = await connection.execute(queries.DELETE_IMAGES, images)
        erased["images"] = cursor.rowcount
        await derive.count(connection, Counter(), images=-cursor.rowcount)
    await connection.execute(queries.COUNT_ERASED, {"request_id": request_id, **erased})
    return finished


async def _delete_pairs(
    connection: AsyncConnection,
    request_id: str,
    doomed: set[bytes],
    pairs: dict[int, tuple[bytes, bytes]],
) -> dict[str, int]:
    """Delete pairs and their labels, and say how many."""
    numbers = {"pairs": sorted(pairs)}
    cursor = await connection.execute(queries.DELETE_LABELS, numbers)
    labels = {pair_id: (count, first) for pair_id, count, first in await cursor.fetchall()}
    firsts = _first_labels(pairs, {pair_id: first for pair_id, (_, first) in labels.items()})
    await _keep_uses(connection, request_id, doomed, firsts)
    cursor = await connection.execute(queries.DELETE_CONSENSUS, numbers)
    changes = Counter[str]()
    changes.subtract(derive.kind(consensus) for (consensus,) in await cursor.fetchall())
    await connection.execute(queries.DELETE_PAIRS, numbers)
    gone = sum(count for count, _ in labels.values())
    await derive.count(connection, changes, labels=-gone)
    return {"images": 0, "pairs": len(pairs), "labels": gone}


async def _keep_uses(
    connection: AsyncConnection, request_id: str, doomed: set[bytes], firsts: dict[bytes, int]
) -> None:
    """Remember the first label of the images that stay, and the snapshots of those that go."""
    cursor = await connection.execute(queries.USES, {"hashes": list(doomed)})
    earlier = [first for (first,) in await cursor.fetchall()]
    used = earlier + [first for sha256, first in firsts.items() if sha256 in doomed]
    if used:
        kept = {"request_id": request_id, "first_label_id": min(used)}
        await connection.execute(queries.KEEP_SNAPSHOTS, kept)
    staying = sorted(firsts.keys() - doomed)
    await connection.execute(
        queries.KEEP_USES, {"hashes": staying, "firsts": [firsts[one] for one in staying]}
    )


def _first_labels(
    pairs: dict[int, tuple[bytes, bytes]], first_of_pair: dict[int, int]
) -> dict[bytes, int]:
    firsts: dict[bytes, int] = {}
    for pair_id, first in first_of_pair.items():
        for image in pairs[pair_id]:
            firsts[image] = min(first, firsts.get(image, first))
    return firsts
