"""Where a training keeps its place, so that another process can go on from there."""

from pathlib import Path
from typing import Protocol
from uuid import UUID

from shared.errors import NotFound
from shared.storage.objects import ObjectStore


class EpochState(Protocol):
    """Where a job keeps what it needs to go on after a kill; one file, replaced whole."""

    def save(self, file: Path) -> None:
        """Keep the file's content durably in place of what was kept before."""

    def load(self, file: Path) -> bool:
        """Write what was kept to `file`; False when nothing was."""


class NoState:
    """Keeps nothing: for what is short, and the same when it is done again."""

    def save(self, file: Path) -> None:
        del file

    def load(self, file: Path) -> bool:
        del file
        return False


STATE_PREFIX = "jobs/"


class StoredEpochState:
    """Keeps one job's state in the object store; see `services.trainer.training.EpochState`."""

    def __init__(self, objects: ObjectStore, job_id: UUID) -> None:
        self._objects = objects
        self._key = f"{STATE_PREFIX}{job_id}/epoch-state"

    def save(self, file: Path) -> None:
        self._objects.put_file(self._key, file)

    def load(self, file: Path) -> bool:
        try:
            self._objects.get_file(self._key, file)
        except NotFound:
            return False
        return True
