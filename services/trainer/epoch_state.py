"""Where a training keeps its place, so that another process can go on from there."""

from collections.abc import Iterable
from pathlib import Path
from uuid import UUID

from shared.errors import NotFound
from shared.storage.objects import ObjectStore

_PREFIX = "jobs/"


class StoredEpochState:
    """Keeps one job's state in the object store; see `services.trainer.training.EpochState`."""

    def __init__(self, objects: ObjectStore, job_id: UUID) -> None:
        self._objects = objects
        self._key = f"{_PREFIX}{job_id}/epoch-state"

    def save(self, file: Path) -> None:
        self._objects.put_file(self._key, file)

    def load(self, file: Path) -> bool:
        try:
            self._objects.get_file(self._key, file)
        except NotFound:
            return False
        return True


def jobs_with_state(objects: ObjectStore) -> dict[UUID, list[str]]:
    """List the jobs that have something stored, with the keys of it."""
    kept: dict[UUID, list[str]] = {}
    for stored in objects.list(_PREFIX):
        kept.setdefault(UUID(stored.key.split("/")[1]), []).append(stored.key)
    return kept


def remove_all(objects: ObjectStore, keys: Iterable[str]) -> None:
    for key in keys:
        objects.remove(key)
