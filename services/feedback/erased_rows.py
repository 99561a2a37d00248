"""Deletes the rows of images: what was said about them, what follows from it, themselves."""

from collections import Counter
from collections.abc import Sequence

from psycopg import AsyncConnection

from services.feedback import derive
from services.feedback import erasure_queries as queries


async def delete_rows(
    connection: AsyncConnection, request_id: str, hashes: Sequence[bytes]
) -> None:
    """Delete images with their pairs and labels, in a transaction that has the gate alone.

    What the erasure has to tell later is kept with it: how much went, and which snapshots
    were taken while there were labels. Tables beyond those named here refer to images and
    pairs with ON DELETE CASCADE.
    """
    images = {"hashes": list(hashes)}
    cursor = await connection.execute(queries.PAIRS_OF_IMAGES, images)
    pairs = {pair_id: (a, b) for pair_id, a, b in await cursor.fetchall()}
    doomed = {"pairs": sorted(pairs)}
    await connection.execute(queries.ALLOW_REMOVAL)
    cursor = await connection.execute(queries.DELETE_LABELS, doomed)
    labels = {pair_id: (count, first) for pair_id, count, first in await cursor.fetchall()}
    firsts = _first_labels(pairs, {pair_id: first for pair_id, (_, first) in labels.items()})
    await _keep_uses(connection, request_id, set(hashes), firsts)
    cursor = await connection.execute(queries.DELETE_CONSENSUS, doomed)
    changes = Counter[str]()
    changes.subtract(derive.kind(consensus) for (consensus,) in await cursor.fetchall())
    await connection.execute(queries.DELETE_PAIRS, doomed)
    cursor = await connection.execute(queries.DELETE_IMAGES, images)
    erased = {
        "images": cursor.rowcount,
        "pairs": len(pairs),
        "labels": sum(count for count, _ in labels.values()),
    }
    await derive.count(connection, changes, images=-erased["images"], labels=-erased["labels"])
    await connection.execute(queries.COUNT_ERASED, {"request_id": request_id, **erased})


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
