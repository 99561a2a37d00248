"""Gives back the trail of what was done."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Any, Final, Literal

from psycopg.types.json import Jsonb

from services.feedback.erasure import queries
from shared.registry.lineage import TrainedVersion
from shared.rpc.paging import read_page
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


Action = Literal["erase_image", "erase_subject", "retention"]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure removed so far, and who learned from it.

    Attributes:
        request_id: The caller's name for it.
        labels: Superseded ones too.
        snapshot_ids: Data snapshots taken while the images had labels.
        versions: Model versions that learned from those snapshots; an image may be in a
            snapshot without having been used, so rather more than fewer.
        finished_at: None while something is left to do.
    """

    request_id: str
    action: Action
    actor: str
    images: int
    pairs: int
    labels: int
    snapshot_ids: tuple[str, ...]
    versions: tuple[TrainedVersion, ...]
    finished_at: datetime | None


def audit_row(done: Erasure) -> dict[str, Any]:
    """Make the trail's row, which says nothing of whom it was about."""
    detail = {
        "images": done.images,
        "pairs": done.pairs,
        "labels": done.labels,
        "snapshots": list(done.snapshot_ids),
        "model_versions": [version.model_version for version in done.versions],
    }
    return {
        "actor": done.actor,
        "action": done.action,
        "request_id": done.request_id,
        "detail": Jsonb(detail),
    }
