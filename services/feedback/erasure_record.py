"""What is told and kept of an erasure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg.types.json import Jsonb

from shared.registry.lineage import TrainedVersion

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
