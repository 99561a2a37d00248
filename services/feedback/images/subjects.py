"""Subjects: the people that images show, as far as somebody has named them."""

from collections import defaultdict
from collections.abc import Collection

from psycopg import AsyncConnection

from services.feedback.images import queries

# A stored image (hex SHA-256), and the name of a person on it.
NamedImage = tuple[str, str]


async def add_subjects(
    connection: AsyncConnection, named: Collection[NamedImage]
) -> dict[NamedImage, list[str]]:
    """Add names of people to images, which keep the names they have.

    A transaction that also updates counters does that last, so that there is no deadlock.

    Args:
        connection: In a transaction.
        named: Images without a row are left out.

    Returns:
        The other names of each image that has another beside the one given.
    """
    if not named:
        return {}
    hashes = [bytes.fromhex(sha256) for sha256, _ in named]
    added = {"hashes": hashes, "subjects": [subject for _, subject in named]}
    await connection.execute(queries.INSERT_SUBJECTS, added)
    cursor = await connection.execute(queries.SUBJECTS_OF, {"hashes": hashes})
    subjects = defaultdict[str, list[str]](list)
    for sha256, subject in await cursor.fetchall():
        subjects[sha256.hex()].append(subject)
    others = {
        (sha256, name): [subject for subject in subjects[sha256] if subject != name]
        for sha256, name in named
    }
    return {image: names for image, names in others.items() if names}
