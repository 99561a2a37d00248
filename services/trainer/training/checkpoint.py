"""Training checkpoints: the state after an epoch, from which another process can resume."""

from pathlib import Path
from typing import Protocol
from uuid import UUID

from shared.errors import NotFound
from shared.storage.objects import ObjectStore

STATE_PREFIX = "jobs/"


class CheckpointStore(Protocol):
    """Keeps the latest checkpoint of one training, as one file."""

    def save(self, file: Path) -> None:
        """Store the content of the file durably, in place of an earlier checkpoint."""

    def load(self, file: Path) -> bool:
        """Write the latest checkpoint to the file; return False if there is none."""


class NoCheckpoints:
    """Keeps nothing: for trainings that are short and give the same result when repeated."""

    def save(self, file: Path) -> None:
        del file

    def load(self, file: Path) -> bool:
        del file
        return False


class JobCheckpoints:
    """Keeps the latest checkpoint of one job in the object store.

    Args:
        objects: The object store.
        job_id: The job.
    """

    def __init__(self, objects: ObjectStore, job_id: UUID) -> None:
        self._objects = objects
        self._key = f"{STATE_PREFIX}{job_id}/epoch-state"

    def save(self, file: Path) -> None:
        """See `CheckpointStore.save`.

        Raises:
            Unavailable: If the object store cannot be reached.
        """
        self._objects.put_file(self._key, file)

    def load(self, file: Path) -> bool:
        """See `CheckpointStore.load`.

        Raises:
            Unavailable: If the object store cannot be reached.
        """
        try:
            self._objects.get_file(self._key, file)
        except NotFound:
            return False
        return True
