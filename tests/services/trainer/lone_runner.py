"""``python -m tests.services.trainer.lone_runner DATABASE WORK_DIR BEHAVIOUR FILE``: to be killed.

A runner in a process of its own, with a lease of a second, whose worker never gets to
publish anything.
"""

import asyncio
import sys
from pathlib import Path

from services.trainer.jobs.completion import Completion
from services.trainer.jobs.leases import Leases
from services.trainer.jobs.runner import Runner
from services.trainer.registry.serving_pointer import PointerPublisher
from shared.registry.version_store import VersionStore
from shared.settings import DatabaseSettings, ObjectStoreSettings
from shared.storage.objects import ObjectStore
from shared.storage.postgres import open_pool
from tests.services.trainer.standin import COMMAND


async def main(database_url: str, work_dir: str, *behaviour: str) -> None:
    nowhere = ObjectStore(
        ObjectStoreSettings(s3_endpoint="127.0.0.1:9", s3_access_key="", s3_secret_key="")
    )
    pool = await open_pool(DatabaseSettings(database_url=database_url))
    completion = Completion(
        pool, nowhere, VersionStore(nowhere, Path(work_dir)), PointerPublisher(pool, nowhere)
    )
    leases = Leases(pool, lease_s=1)
    await Runner(leases, completion, Path(work_dir), (*COMMAND, *behaviour)).run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
