"""Gives back the trail of what was done."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final

from services.feedback import erasure_queries as queries
from shared.paging import read_page
from shared.storage.postgres import Pool, transaction

_BEFORE_ALL: Final = 2**63 - 1


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """Who did what and when; detail holds the action's figures, and no biometric data."""

    audit_id: int
    at: datetime
    actor: str
    action: str
    request_id: str
    detail: dict[str, Any]


async def list_audit(
    pool: Pool, page_size: int, page_token: str
) -> tuple[Sequence[AuditEntry], str]:
    """List entries, newest first.

    Args:
        pool: Connections to a database with the schema `feedback`.
        page_size: 1..1000; 100 if 0.
        page_token: What came with the page before; empty for the first.

    Returns:
        The page, and the token of the next; empty when this is the last.

    Raises:
        Unavailable: If the database cannot answer.
    """
    page = read_page(page_size, page_token)
    before = _BEFORE_ALL if page.before is None else page.before
    async with transaction(pool) as connection:
        cursor = await connection.execute(
            queries.LIST_AUDIT, {"before": before, "limit": page.limit}
        )
        entries = [AuditEntry(*row) for row in await cursor.fetchall()]
    return page.cut(entries, attrgetter("audit_id"))
