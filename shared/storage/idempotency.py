"""Idempotency keys in Postgres: calls with the same key have one effect.

The transaction of the effect claims the key and saves the result. Of two concurrent transactions
that claim the same key, the second waits until the first has ended.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from psycopg import AsyncConnection, sql
from psycopg.types.json import Jsonb

from shared.errors import AlreadyExists

_CLAIM = sql.SQL(
    "INSERT INTO {table} (caller, idempotency_key, content)"
    " VALUES (%(caller)s, %(key)s, %(content)s) ON CONFLICT DO NOTHING"
)
_FIND = sql.SQL(
    "SELECT content, result FROM {table} WHERE caller = %(caller)s AND idempotency_key = %(key)s"
)
_SAVE = sql.SQL(
    "UPDATE {table} SET result = %(result)s WHERE caller = %(caller)s AND idempotency_key = %(key)s"
)


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A key that a caller chose, and a hash of the request it stands for.

    Attributes:
        caller: Owner of the key; other callers may use the same key.
        key: 1..128 characters.
        content: SHA-256 of the request.
    """

    caller: str
    key: str
    content: bytes

    @classmethod
    def of(
        cls, caller: str, key: str | None, action: str, /, **content: Any
    ) -> "IdempotencyKey | None":
        """Return the key of a request; None when the caller chose none.

        Args:
            caller: Owner of the key.
            key: The key that the caller chose.
            action: Name of the action that is requested.
            content: The fields of the request, as values that JSON can hold.
        """
        if key is None:
            return None
        text = json.dumps([action, content], sort_keys=True)
        return cls(caller, key, hashlib.sha256(text.encode()).digest())


class IdempotencyStore:
    """Results of calls by their idempotency keys.

    Every method works in the transaction of its caller and does nothing for the key None.

    Args:
        schema: Schema whose table ``idempotency_keys`` has the columns caller,
            idempotency_key (together the primary key), content (bytea) and result (jsonb).
    """

    def __init__(self, schema: str) -> None:
        table = sql.Identifier(schema, "idempotency_keys")
        self._claim, self._find, self._save = (
            query.format(table=table) for query in (_CLAIM, _FIND, _SAVE)
        )

    async def find(
        self, connection: AsyncConnection, key: IdempotencyKey | None
    ) -> Mapping[str, Any] | None:
        """Return the result of the earlier call with the key; None when there was none.

        Raises:
            AlreadyExists: If the key was used for another request.
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
                " use a new key for each request"
            )
        saved: Mapping[str, Any] = result
        return saved

    async def claim(
        self, connection: AsyncConnection, key: IdempotencyKey | None
    ) -> Mapping[str, Any] | None:
        """Claim the key in this transaction, or return the result as `find` does.

        Waits for a concurrent transaction that has claimed the key. Call `save` before the
        transaction ends.

        Raises:
            AlreadyExists: If the key was used for another request.
        """
        if key is None:
            return None
        cursor = await connection.execute(
            self._claim, {"caller": key.caller, "key": key.key, "content": key.content}
        )
        return None if cursor.rowcount else await self.find(connection, key)

    async def save(
        self, connection: AsyncConnection, key: IdempotencyKey | None, result: Mapping[str, Any]
    ) -> None:
        """Save the result for later calls with the key, which this transaction has claimed."""
        if key is None:
            return
        values = {"caller": key.caller, "key": key.key, "result": Jsonb(result)}
        await connection.execute(self._save, values)
