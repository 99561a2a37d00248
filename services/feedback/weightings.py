"""Stores what annotators' answers weigh, once it differs from what is stored."""

import math
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from psycopg import AsyncConnection

from services.feedback import weighting_queries as queries
from services.feedback.domain import Label
from services.feedback.reliability import ANSWERS, Estimate, log_odds
from shared.storage.postgres import Pool, transaction

# With fewer votes that say something about them, an annotator counts as the average one.
ENOUGH_OVERLAP: Final = 20
# A consensus must be more than twice as likely right as wrong.
BAR: Final = math.log(2.0)
_SAME, _DIFFERENT = ANSWERS.index(Label.SAME), ANSWERS.index(Label.DIFFERENT)
_ODDS: Final = tuple(f"odds_{label}" for label in ANSWERS)
_COLUMNS: Final = ("annotator", "overlap", "genuine_right", "impostor_right", *_ODDS)


@dataclass(frozen=True, slots=True)
class Stored:
    """How much an estimate can learn from.

    Attributes:
        labels: How many are stored.
        audit_id: The last entry of the trail; each erasure adds one.
    """

    labels: int
    audit_id: int


async def look(pool: Pool) -> tuple[Stored, Stored | None]:
    """Give what is stored now, and what was when the newest weights were estimated.

    Raises:
        Unavailable: If the database cannot answer.
    """
    async with transaction(pool) as connection:
        cursor = await connection.execute(queries.SITUATION)
        ((labels, audit_id, labels_then, audit_id_then),) = await cursor.fetchall()
    then = None if labels_then is None else Stored(labels_then, audit_id_then)
    return Stored(labels, audit_id), then


async def keep(pool: Pool, found: Estimate, stored: Stored) -> bool:
    """Store an estimate as the newest weights, which judge from then on.

    Annotators with too little overlap keep no weights of their own. Where nobody has enough,
    nothing is weighted: that is stored only to take the place of weights there were.

    Args:
        pool: Connections to a database with the schema `feedback`.
        found: The estimate.
        stored: What was there when it began.

    Returns:
        Whether it differs from the newest weights; otherwise these stay.

    Raises:
        Unavailable: If the database cannot answer.
    """
    average = tuple(log_odds(found.average).tolist())
    rows = _rows(found)
    anybody = any(row[-1] is not None for row in rows)
    async with transaction(pool) as connection:
        await connection.execute(queries.LOCK_WEIGHTINGS)
        newest = await _newest(connection)
        if newest == (average, set(rows)) if newest else not anybody:
            return False
        cursor = await connection.execute(
            queries.ADD_WEIGHTING,
            {
                "labels": stored.labels,
                "audit_id": stored.audit_id,
                "votes": found.votes,
                "pairs": found.pairs,
                "bar": BAR,
                **dict(zip(_ODDS, average, strict=True)),
            },
        )
        ((weighting_id,),) = await cursor.fetchall()
        columns = zip(*rows, strict=True) if rows else ((),) * len(_COLUMNS)
        values: dict[str, Any] = {
            name: list(column) for name, column in zip(_COLUMNS, columns, strict=True)
        }
        await connection.execute(queries.ADD_WEIGHTS, {"weighting_id": weighting_id, **values})
    return True


async def _newest(
    connection: AsyncConnection,
) -> tuple[tuple[float, ...], set[tuple[Any, ...]]] | None:
    cursor = await connection.execute(queries.NEWEST)
    ((weighting_id,),) = await cursor.fetchall()
    if weighting_id is None:
        return None
    wanted = {"weighting_id": weighting_id}
    head = await connection.execute(queries.WEIGHTING, wanted)
    rows = await connection.execute(queries.ALL_WEIGHTS, wanted)
    ((_, *average),) = await head.fetchall()
    return tuple(average), set(await rows.fetchall())


def _rows(found: Estimate) -> list[tuple[Any, ...]]:
    """Give the rows of annotators, in the order of `_COLUMNS`."""
    odds = log_odds(found.rates)
    own = np.where((found.overlap >= ENOUGH_OVERLAP)[:, None], odds, np.nan)
    return [
        (
            name,
            overlap,
            float(rates[_SAME, _SAME]),
            float(rates[_DIFFERENT, _DIFFERENT]),
            *(None if math.isnan(one) else one for one in weights),
        )
        for name, overlap, rates, weights in zip(
            found.names, found.overlap.tolist(), found.rates, own.tolist(), strict=True
        )
    ]
