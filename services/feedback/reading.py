"""Reads rows in a transaction of their own."""

from typing import Any

from psycopg.rows import TupleRow

from shared.storage.postgres import Pool, transaction


async def fetch(pool: Pool, query: Any, values: dict[str, Any]) -> list[TupleRow]:
    """Give all rows of a query.

    Raises:
        Unavailable: If the database cannot answer.
    """
    async with transaction(pool) as connection:
        cursor = await connection.execute(query, values)
        return await cursor.fetchall()
