"""Says how far each annotator can be relied on."""

from dataclasses import dataclass
from typing import Any, Final

from services.feedback import lease_queries as queries
from services.feedback.rules import Rules
from shared.storage.postgres import Pool, transaction

_LISTED: Final = 1000


@dataclass(frozen=True, slots=True)
class Reliability:
    """How an annotator answers, estimated where labels overlap.

    Attributes:
        overlap: Votes that it rests on.
        genuine_right: Share of the genuine pairs that they call SAME, 0..1.
        impostor_right: Share of the impostor pairs that they call DIFFERENT, 0..1.
        weighted: Whether the overlap is enough for weights of their own.
    """

    overlap: int
    genuine_right: float
    impostor_right: float
    weighted: bool


@dataclass(frozen=True, slots=True)
class AnnotatorRecord:
    """How an annotator did on gold pairs, and how reliable they are estimated to be."""

    annotator: str
    gold_answers: int
    gold_right: int
    reliability: Reliability | None


class Annotators:
    """Looks up how annotators do.

    Args:
        pool: Connections to a database with the schema `feedback`.
        rules: Whether annotators are weighted.
    """

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self._pool = pool
        self._rules = rules

    async def records(self) -> list[AnnotatorRecord]:
        """Give the first 1,000, by name, of whom anything is known.

        Raises:
            Unavailable: If the database cannot answer.
        """
        wanted = {"weighted": self._rules.weighted, "limit": _LISTED}
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(queries.ANNOTATORS, wanted)
            return [_record(*row) async for row in cursor]


def _record(annotator: str, answers: int, right: int, *estimated: Any) -> AnnotatorRecord:
    reliability = None if estimated[0] is None else Reliability(*estimated)
    return AnnotatorRecord(annotator, answers, right, reliability)
