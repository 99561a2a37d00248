"""Reads the votes that tell how far annotators can be relied on."""

from collections.abc import Sequence
from itertools import groupby
from typing import Final

import numpy as np
from numpy.typing import NDArray
from psycopg.rows import TupleRow

from services.feedback import weighting_queries as queries
from services.feedback.reliability import ANSWERS, Ballots
from shared.storage.postgres import Pool, transaction

_PAGE: Final = 1000
_FIRST: Final = 2**63 - 1
_PLACES: Final = {label.value: place for place, label in enumerate(ANSWERS)}


async def read_ballots(pool: Pool, most_votes: int) -> Ballots:
    """Read the current votes on pairs that two people decided, or whose truth is known.

    The truth of a pair is known where somebody has said who is on both images. A page at a time
    in a transaction of its own, ten bytes a vote.

    Args:
        pool: Connections to a database with the schema `feedback`.
        most_votes: With more of them, the newest pairs are taken.

    Raises:
        Unavailable: If the database cannot answer.
    """
    box = _Box()
    before: int | None = _FIRST
    while before is not None and box.votes < most_votes:
        async with transaction(pool) as connection:
            cursor = await connection.execute(
                queries.OVERLAP_PAGE, {"before": before, "limit": _PAGE}
            )
            rows = await cursor.fetchall()
        box.add(rows)
        before = rows[-1][0] if rows else None
    return box.ballots()


class _Box:
    """Gathers rows in columns."""

    def __init__(self) -> None:
        self.votes = 0
        self._numbers: dict[str, int] = {}
        self._columns: list[NDArray[np.int32]] = []
        self._truth: list[float] = []

    def add(self, rows: Sequence[TupleRow]) -> None:
        """Add a page of `OVERLAP_PAGE`."""
        found: list[tuple[int, int, int]] = []
        for _, pair_rows in groupby(rows, key=lambda row: row[0]):
            votes = [row for row in pair_rows if row[2] is not None]
            if votes:
                place = len(self._truth)
                truth = votes[0][1]
                self._truth.append(np.nan if truth is None else float(truth))
                found += [(place, self._number(who), _PLACES[said]) for _, _, who, said in votes]
        self._columns.append(np.array(found, np.int32).reshape(-1, 3).T)
        self.votes += len(found)

    def ballots(self) -> Ballots:
        empty = np.empty((3, 0), np.int32)
        pair, annotator, answer = np.concatenate([empty, *self._columns], axis=1)
        return Ballots(
            tuple(self._numbers),
            pair,
            annotator,
            answer.astype(np.int8),
            np.array(self._truth, np.float64),
        )

    def _number(self, annotator: str) -> int:
        return self._numbers.setdefault(annotator, len(self._numbers))
