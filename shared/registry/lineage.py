"""Which model versions learned from which data snapshots."""

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
    """A model version that learned from one of the snapshots asked for.

    Attributes:
        inherited: It did not itself; a version that it was fine-tuned from did.
    """

    model_version: str
    inherited: bool


class _Origin(BaseModel):
    """Where a version comes from, read from its manifest.

    Not a `Manifest`: an erasure must also find a version whose manifest has fields that this
    service does not know yet, such as one that a newer trainer published.
    """

    model_version: str
    parent_version: str | None
    data_snapshot: str | None


def versions_trained_on(
    objects: ObjectStore, snapshot_ids: Collection[str]
) -> list[TrainedVersion]:
    """Find the published versions that learned from data snapshots, themselves or by descent.

    Returns:
        By name. A version whose manifest cannot be read, so that nobody can load it either,
        is left out and logged.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    if not snapshot_ids:
        return []
    origins = {origin.model_version: origin for origin in _origins(objects)}
    direct = {name for name, origin in origins.items() if origin.data_snapshot in snapshot_ids}
    touched = set(direct)
    while (
        heirs := {name for name, origin in origins.items() if origin.parent_version in touched}
        - touched
    ):
        touched |= heirs
    return [TrainedVersion(name, inherited=name not in direct) for name in sorted(touched)]


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
            continue  # removed since it was listed
        except ValidationError as error:
            logger.warning("what %s was trained on is not known: %s", key, error)
    return origins
