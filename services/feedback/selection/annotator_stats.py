"""Annotator statistics: answers on gold pairs."""

from dataclasses import dataclass
from typing import Final

from services.feedback.selection import queries
from shared.storage.postgres import Pool, fetch

_MOST_RECORDS: Final = 1000


@dataclass(frozen=True, slots=True)
class AnnotatorRecord:
    """How many gold pairs an annotator answered, and how many of the answers were right."""

    annotator: str
    gold_answers: int
    gold_right: int


class AnnotatorStats:
    """Counts the answers of annotators on gold pairs.

    Args:
        pool: Connections to a database with the schema `feedback`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list_records(self) -> list[AnnotatorRecord]:
        """List the first 1,000 annotators who answered a gold pair, by name.

        Raises:
            Unavailable: If the database does not answer.
        """
        rows = await fetch(self._pool, queries.ANNOTATORS, {"limit": _MOST_RECORDS})
        return [AnnotatorRecord(*row) for row in rows]
