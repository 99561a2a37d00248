"""Audit log of erasures."""

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

_AFTER_ALL_IDS: Final = 2**63 - 1

ErasureAction = Literal["erase_image", "erase_subject", "retention"]


@dataclass(frozen=True, slots=True)
class Erasure:
    """What an erasure has removed so far, and which model versions were trained on it.

    Attributes:
        request_id: Chosen by the caller.
        actor: Who requested it.
        labels: Labels removed, superseded ones included.
        snapshot_ids: Data snapshots that may hold labels of the erased images.
        versions: Model versions trained on those snapshots. An image can be in a snapshot
            without having been used, so this may list more versions than learned from it.
        finished_at: None while something is left to remove.
    """

    request_id: str
    action: ErasureAction
    actor: str
    images: int
    pairs: int
    labels: int
    snapshot_ids: tuple[str, ...]
    versions: tuple[TrainedVersion, ...]
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One audited action; detail holds its counts and no biometric data."""

    audit_id: int
    at: datetime
    actor: str
    action: str
    request_id: str
    detail: dict[str, Any]


class AuditLog:
    """Reads the audit log.

    Args:
        pool: Connections to a database with the schema `feedback`.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def list_entries(
        self, page_size: int, page_token: str
    ) -> tuple[Sequence[AuditEntry], str]:
        """List entries, newest first.

        Args:
            page_size: 1..1000; 100 if 0.
            page_token: From the previous page; empty for the first page.

        Returns:
            The page, and the token of the next page; empty after the last one.

        Raises:
            InvalidInput: If the page size or the token is invalid.
            Unavailable: If the database does not answer.
        """
        page = read_page(page_size, page_token)
        before = _AFTER_ALL_IDS if page.before is None else page.before
        async with transaction(self._pool) as connection:
            cursor = await connection.execute(
                queries.LIST_AUDIT, {"before": before, "limit": page.limit}
            )
            entries = [AuditEntry(*row) for row in await cursor.fetchall()]
        return page.cut(entries, attrgetter("audit_id"))


def audit_row(erasure: Erasure) -> dict[str, Any]:
    """Give the parameters of `queries.AUDIT`; they do not identify whom the images show."""
    detail = {
        "images": erasure.images,
        "pairs": erasure.pairs,
        "labels": erasure.labels,
        "snapshots": list(erasure.snapshot_ids),
        "model_versions": [version.model_version for version in erasure.versions],
    }
    return {
        "actor": erasure.actor,
        "action": erasure.action,
        "request_id": erasure.request_id,
        "detail": Jsonb(detail),
    }
