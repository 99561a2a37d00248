"""Runner in a process of its own, which tests kill.

``python -m tests.services.trainer.lone_runner DATABASE WORK_DIR BEHAVIOUR FILE``: a runner with a
lease of one second, whose object store cannot be reached.
"""

import asyncio
import sys
from pathlib import Path

from services.trainer.jobs.completion import JobCompletion
from services.trainer.jobs.folders import JobFolders
from services.trainer.jobs.leases import JobLeases
from services.trainer.jobs.runner import JobRunner
from services.trainer.registry.serving_pointer import ServingPointerPublisher
from shared.registry.version_store import VersionStore
from shared.settings import DatabaseSettings
from shared.storage.postgres import open_pool
from tests.services.trainer.standin import COMMAND
from tests.support.lost_store import lost_store


async def main(database_url: str, work_dir: str, *behaviour: str) -> None:
    nowhere = lost_store()
    pool = await open_pool(DatabaseSettings(database_url=database_url))
    completion = JobCompletion(
        pool, nowhere, VersionStore(nowhere, Path(work_dir)), ServingPointerPublisher(pool, nowhere)
    )
    leases = JobLeases(pool, lease_s=1)
    folders = JobFolders(nowhere, Path(work_dir))
    await JobRunner(leases, completion, folders, (*COMMAND, *behaviour)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
