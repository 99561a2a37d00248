"""Makes a published model version ready to compute, without touching the one that serves."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from services.embedder.models.resident import LoadedModel
from shared.model.golden import check_golden
from shared.model.image.align import CROP_SIZE
from shared.model.manifest import read_manifest
from shared.model.sessions.base import Device, Engine, Session
from shared.model.sessions.factory import open_session
from shared.registry.version_store import VersionStore


@dataclass(frozen=True)
class Loader:
    """Fetches, opens, checks and warms versions; blocks, so call it on a thread of its own.

    Attributes:
        versions: Where they come from.
        engine: What they will run on.
        device: Where they will run.
        threads: CPU threads for one run.
        batch_images: Most images in one run of the network.
    """

    versions: VersionStore
    engine: Engine
    device: Device
    threads: int
    batch_images: int

    def load(self, model_version: str) -> LoadedModel:
        """Load one version.

        Raises:
            NotFound: If it is not published.
            CorruptData: If its files are damaged, or it does not compute what it should.
            PreconditionFailed: If the device is not there.
            Unavailable: If there is no local copy and the store cannot be reached.
        """
        folder = self.versions.fetch(model_version, rehash=True)
        manifest = read_manifest(folder)
        session = open_session(folder, self.engine, self.device, self.threads, self.batch_images)
        check_golden(session, manifest)
        self._warm(session)
        return LoadedModel(manifest, session)

    def _warm(self, session: Session) -> None:
        # A GPU chooses its algorithms by batch size; on a CPU the self-check was warm-up enough.
        sizes = (1, self.batch_images) if self.device != "cpu" else ()
        for size in sizes:
            session.run(np.zeros((size, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8))


_log = logging.getLogger(__name__)


async def keep_pruned(
    versions: VersionStore, in_use: Callable[[], set[str]], interval_s: float
) -> None:
    """Prune whenever what is in use has changed, until cancelled.

    Args:
        versions: Has the local copies.
        in_use: Names of what is loaded or will be; empty as long as nothing serves, since a
            start without the store may need any copy.
        interval_s: Seconds between two looks.
    """
    pruned: set[str] = set()
    while True:
        keep = in_use()
        if keep and keep != pruned:
            pruned = keep
            try:
                removed = await asyncio.to_thread(versions.prune, keep)
            except OSError as error:
                _log.warning("old model versions stay in the cache: %s", error)
            else:
                for version in removed:
                    _log.info("model version %s is removed from the cache", version)
        await asyncio.sleep(interval_s)
