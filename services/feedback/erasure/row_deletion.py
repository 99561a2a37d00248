"""Row deletion: removes the rows of images with their pairs, labels and derived data."""

from collections import Counter
from collections.abc import Sequence
from typing import Final

from psycopg import AsyncConnection

from services.feedback.erasure import queries
from services.feedback.images.tombstones import image_mark, label_mark
from services.feedback.labels import consensus_view

_PAIRS_AT_ONCE: Final = 2000


async def delete_rows(
    connection: AsyncConnection, request_id: str, hashes: Sequence[bytes], *, tombstones: bool
) -> bool:
    """Delete images with their pairs and labels, in a transaction that holds the removal lock.

    The counts, and the snapshots taken while the images had labels, are stored with the erasure.
    With `tombstones`, those of an erasure on request leave tombstones, which keep the images and
    labels from being stored again.
    Other tables that refer to images or pairs do so with ON DELETE CASCADE.

    At most 2,000 pairs are deleted, so that the transaction stays short whatever the number of
    pairs of an image.

    Returns:
        True if everything was deleted; False if pairs, and so the images, are left.
    """
    listed = await _still_listed(connection, request_id, hashes)
    images = {"hashes": listed}
    cursor = await connection.execute(queries.PAIRS_OF_IMAGES, {**images, "limit": _PAIRS_AT_ONCE})
    pairs = {pair_id: (a, b) for pair_id, a, b in await cursor.fetchall()}
    await connection.execute(queries.ALLOW_REMOVAL)
    erased, keys = await _delete_pairs(connection, request_id, set(listed), pairs)
    marks = [label_mark(key) for key in keys]
    finished = len(pairs) < _PAIRS_AT_ONCE
    if finished:
        cursor = await connection.execute(queries.DELETE_IMAGES, images)
        erased["images"] = cursor.rowcount
        marks += map(image_mark, listed)
        await consensus_view.update_counters(connection, Counter(), images=-cursor.rowcount)
    if tombstones:
        added = {"request_id": request_id, "marks": marks}
        await connection.execute(queries.ADD_TOMBSTONES, added)
    await connection.execute(queries.COUNT_ERASED, {"request_id": request_id, **erased})
    return finished


async def _still_listed(
    connection: AsyncConnection, request_id: str, hashes: Sequence[bytes]
) -> list[bytes]:
    """Leave out images that another process has erased; they may have been stored again."""
    wanted = {"request_id": request_id, "hashes": list(hashes)}
    cursor = await connection.execute(queries.STILL_LISTED, wanted)
    return [sha256 for (sha256,) in await cursor.fetchall()]


async def _delete_pairs(
    connection: AsyncConnection,
    request_id: str,
    images: set[bytes],
    pairs: dict[int, tuple[bytes, bytes]],
) -> tuple[dict[str, int], list[str]]:
    """Delete pairs and their labels.

    Args:
        connection: In the transaction.
        request_id: Of the erasure.
        images: The images that are being erased.
        pairs: The two images of each pair, by pair id.

    Returns:
        How much was deleted, for `queries.COUNT_ERASED`, and the idempotency keys of the labels.
    """
    pair_ids = {"pairs": sorted(pairs)}
    cursor = await connection.execute(queries.DELETE_LABELS, pair_ids)
    rows = await cursor.fetchall()
    keys = [key for *_, keys_of_pair in rows for key in keys_of_pair]
    first_labels = _first_label_of_images(pairs, {pair_id: first for pair_id, _, first, _ in rows})
    await _record_uses(connection, request_id, images, first_labels)
    cursor = await connection.execute(queries.DELETE_CONSENSUS, pair_ids)
    changes = Counter[str]()
    changes.subtract(
        consensus_view.counter_of(consensus) for (consensus,) in await cursor.fetchall()
    )
    await connection.execute(queries.DELETE_PAIRS, pair_ids)
    deleted = sum(count for _, count, *_ in rows)
    await consensus_view.update_counters(connection, changes, labels=-deleted)
    return {"images": 0, "pairs": len(pairs), "labels": deleted}, keys


async def _record_uses(
    connection: AsyncConnection,
    request_id: str,
    images: set[bytes],
    first_labels: dict[bytes, int],
) -> None:
    """Store which snapshots the erased images were in, and the first label of the other images."""
    cursor = await connection.execute(queries.USES, {"hashes": list(images)})
    earlier = [first for (first,) in await cursor.fetchall()]
    used = earlier + [first for sha256, first in first_labels.items() if sha256 in images]
    if used:
        recorded = {"request_id": request_id, "first_label_id": min(used)}
        await connection.execute(queries.RECORD_SNAPSHOTS, recorded)
    others = sorted(first_labels.keys() - images)
    await connection.execute(
        queries.RECORD_USES,
        {"hashes": others, "firsts": [first_labels[sha256] for sha256 in others]},
    )


def _first_label_of_images(
    pairs: dict[int, tuple[bytes, bytes]], first_of_pair: dict[int, int]
) -> dict[bytes, int]:
    firsts: dict[bytes, int] = {}
    for pair_id, first in first_of_pair.items():
        for image in pairs[pair_id]:
            firsts[image] = min(first, firsts.get(image, first))
    return firsts
