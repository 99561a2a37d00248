"""Working folders of jobs, announced in the object store while they may hold copies of images."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

from services.trainer.jobs.leases import JobClaim
from services.trainer.worker.specs import JobKind
from shared.errors import Unavailable
from shared.files import room_in
from shared.registry.image_copies import announce_copies, withdraw_copies
from shared.runtime import repeat
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

JOB_FOLDERS: Final = "job-"
# An empty file for each announced folder, by the rest of its name. It says what is announced also
# when the folder has been removed.
_ANNOUNCED: Final = "announced-"
_WITHDRAW_EVERY_S: Final = 5.0


class JobFolders:
    """Makes and removes the working folders of jobs; see `shared/registry/image_copies.py`.

    Args:
        objects: Where folders are announced.
        work_dir: Each attempt of a job gets a folder in it.
    """

    def __init__(self, objects: ObjectStore, work_dir: Path) -> None:
        self._objects = objects
        self._work_dir = work_dir.absolute()

    async def run(self) -> NoReturn:
        """Withdraw the announcements of removed folders until cancelled."""
        await repeat("withdrawal of copies of images", self.withdraw_removed, _WITHDRAW_EVERY_S)

    async def withdraw_removed(self) -> None:
        """Withdraw the announcements of folders of this work_dir that do not exist any more.

        Raises:
            Unavailable: If the object store cannot be reached.
        """
        await asyncio.to_thread(self._withdraw_removed)

    @asynccontextmanager
    async def open(self, claim: JobClaim) -> AsyncIterator[Path]:
        """Make the folder of an attempt, and remove it at the end of the block.

        Raises:
            Unavailable: If there is no room for it, or it cannot be announced.
        """
        folder = await asyncio.to_thread(self._make, claim)
        try:
            if claim.job.kind is not JobKind.IMPORT:
                (self._work_dir / f"{_ANNOUNCED}{folder.name}").touch()
                await self.set_snapshot(claim, claim.job.data_snapshot)
            yield folder
        finally:
            await asyncio.to_thread(self._remove, folder)

    async def set_snapshot(self, claim: JobClaim, data_snapshot: str | None) -> None:
        """Announce the images of which data snapshot a folder holds; None while it is not known.

        Raises:
            Unavailable: If the object store cannot be reached.
        """
        name = _folder_name(claim)
        await asyncio.to_thread(announce_copies, self._objects, name, data_snapshot)

    def _make(self, claim: JobClaim) -> Path:
        # Folders of earlier attempts, whose runner was killed.
        for left_over in self._work_dir.glob(f"{JOB_FOLDERS}{claim.job.job_id}-*"):
            shutil.rmtree(left_over, ignore_errors=True)
        folder = self._work_dir / _folder_name(claim)
        with room_in(self._work_dir):
            folder.mkdir(parents=True)
        return folder

    def _remove(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        try:
            self._withdraw_removed()
        except Unavailable as error:
            logger.warning("copies of images are withdrawn later: %s", error)

    def _withdraw_removed(self) -> None:
        for note in self._work_dir.glob(f"{_ANNOUNCED}*"):
            holder = note.name.removeprefix(_ANNOUNCED)
            if not (self._work_dir / holder).exists():
                withdraw_copies(self._objects, holder)
                note.unlink(missing_ok=True)


def _folder_name(claim: JobClaim) -> str:
    return f"{JOB_FOLDERS}{claim.job.job_id}-{claim.fencing_token}"
