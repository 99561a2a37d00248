"""Lineage of model versions: which of them were trained on which data snapshots."""

import logging
from collections.abc import Collection
from dataclasses import dataclass

from pydantic import BaseModel, ValidationError

from shared.errors import NotFound
from shared.model.manifest import MANIFEST_FILE
from shared.registry.version_store import VERSIONS_PREFIX
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainedVersion:
    """A model version that was trained on one of the given snapshots.

    Attributes:
        inherited: True if not this version but an ancestor of it was trained on the snapshot.
    """

    model_version: str
    inherited: bool


class _Origin(BaseModel):
    """The fields of a manifest that tell where a version comes from.

    It is not a `Manifest`, which refuses unknown fields: an erasure must also find a version that
    a newer trainer published.
    """

    model_version: str
    parent_version: str | None
    data_snapshot: str | None


def versions_trained_on(
    objects: ObjectStore, snapshot_ids: Collection[str]
) -> list[TrainedVersion]:
    """Find the published versions that were trained on data snapshots, and their descendants.

    Returns:
        Sorted by name. A version whose manifest is invalid cannot be loaded either; it is logged
        and left out.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    if not snapshot_ids:
        return []
    origins = {origin.model_version: origin for origin in _origins(objects)}
    direct = {name for name, origin in origins.items() if origin.data_snapshot in snapshot_ids}
    affected = set(direct)
    while (
        descendants := {
            name for name, origin in origins.items() if origin.parent_version in affected
        }
        - affected
    ):
        affected |= descendants
    return [TrainedVersion(name, inherited=name not in direct) for name in sorted(affected)]


def _origins(objects: ObjectStore) -> list[_Origin]:
    keys = [
        found.key
        for found in objects.list(VERSIONS_PREFIX)
        if found.key.endswith(f"/{MANIFEST_FILE}")
    ]
    origins = []
    for key in keys:
        try:
            origins.append(_Origin.model_validate_json(objects.get(key)))
        except NotFound:
            continue  # removed after it was listed
        except ValidationError as error:
            logger.warning("manifest %s is invalid and its lineage unknown: %s", key, error)
    return origins
