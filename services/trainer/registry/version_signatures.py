"""Signatures of versions that were published before the trainer had a key."""

import asyncio
import logging

from services.trainer.registry.versions import VersionRegistry
from shared.registry.version_store import VersionStore

logger = logging.getLogger(__name__)

_PAGE = 100


async def sign_versions(versions: VersionRegistry, store: VersionStore) -> None:
    """Sign the manifests that are not signed with a trusted key, as Postgres has them.

    Raises:
        Unavailable: If Postgres or the object store cannot be reached.
    """
    before: int | None = None
    while page := await versions.list(_PAGE, before):
        for version in page:
            if await asyncio.to_thread(store.restore_manifest, version.manifest):
                logger.info("wrote the manifest of %s again, with a signature", version.name)
        before = page[-1].seq
