"""Idempotency keys in Postgres: a call that is repeated with its key has one effect.

A key is taken and its result is kept in the transaction that has the effect. Of two
transactions that take the same key at once, the second waits until the first has ended.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from shared.errors import AlreadyExists

_TAKE = sql.SQL(
    "INSERT INTO {table} (caller, idempotency_key, content)"
    " VALUES (%(caller)s, %(key)s, %(content)s) ON CONFLICT DO NOTHING"
)
_FIND = sql.SQL(
    "SELECT content, result FROM {table} WHERE caller = %(caller)s AND idempotency_key = %(key)s"
)
_KEEP = sql.SQL(
    "UPDATE {table} SET result = %(result)s WHERE caller = %(caller)s AND idempotency_key = %(key)s"
)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key that a caller chose, and what it asks for under it.

    Attributes:
        caller: Whom the key belongs to; others may use the same key.
        key: 1..128 characters.
        content: SHA-256 of what is asked for.
    """

    caller: str
    key: str
    content: bytes

    @classmethod
    def of(
        cls, caller: str, key: str | None, action: str, /, **content: Any
    ) -> "IdempotencyKey | None":
        """Make a key of a request; None when the caller chose none.

        Args:
            caller: Whom the key belongs to.
            key: What they chose.
            action: What is to be done.
            content: The request as it was made, of values that JSON can hold.
        """
        if key is None:
            return None
        text = json.dumps([action, content], sort_keys=True)
        return cls(caller, key, hashlib.sha256(text.encode()).digest())


class IdempotencyStore:
    """Results of calls by their idempotency keys.

    Every method works within the caller's transaction, and does nothing for a key of None.

    Args:
        schema: Of the database; its table ``idempotency_keys`` has the columns caller,
            idempotency_key (together the primary key), content (bytea) and result (jsonb).
    """

    def __init__(self, schema: str) -> None:
        table = sql.Identifier(schema, "idempotency_keys")
        self._take, self._find, self._keep = (
            query.format(table=table) for query in (_TAKE, _FIND, _KEEP)
        )

    async def find(
        self, connection: AsyncConnection, key: IdempotencyKey | None
    ) -> Mapping[str, Any] | None:
        """Give the result of the call that used the key before; None when none did.

        Raises:
            AlreadyExists: If it was used with other content.
        """
        if key is None:
            return None
        cursor = await connection.execute(self._find, {"caller": key.caller, "key": key.key})
        row = await cursor.fetchone()
        if row is None:
            return None
        content, result = row
        if content != key.content:
            raise AlreadyExists(
                f"idempotency_key: {key.key!r} was used by {key.caller!r} for another request;"
                " give each request a key of its own"
            )
        kept: Mapping[str, Any] = result
        return kept

    async def take(
        self, connection: AsyncConnection, key: IdempotencyKey | None
    ) -> Mapping[str, Any] | None:
        """Take the key for this transaction, or give the result as `find` does.

        Waits for another transaction that has taken the key. Call `keep` before the
        transaction ends.

        Raises:
            AlreadyExists: If the key was used with other content.
        """
        if key is None:
            return None
        cursor = await connection.execute(
            self._take, {"caller": key.caller, "key": key.key, "content": key.content}
        )
        return None if cursor.rowcount else await self.find(connection, key)

    async def keep(
        self, connection: AsyncConnection, key: IdempotencyKey | None, result: Mapping[str, Any]
    ) -> None:
        """Keep what to answer when the key, taken in this transaction, is used again."""
        if key is None:
            return
        values = {"caller": key.caller, "key": key.key, "result": Jsonb(result)}
        await connection.execute(self._keep, values)
