"""Loading of model versions: fetch, open, self-check and warm-up."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from services.embedder.models.resident import LoadedModel
from services.embedder.models.version_threads import Cancellation, VersionThreads
from shared.heap import mapped_weights
from shared.model.golden import check_golden
from shared.model.image.align import CROP_SIZE
from shared.model.manifest import read_manifest
from shared.model.sessions.base import Device, Engine, Session
from shared.model.sessions.factory import open_session
from shared.registry.version_store import VersionStore


@dataclass(frozen=True)
class Loader:
    """Loads versions without touching the serving one.

    Attributes:
        versions: The published versions and their local copies.
        version_threads: Run what blocks.
        limit_s: Longest time to open a fetched version, check it and warm it up, in seconds.
        engine: Of the sessions.
        device: Of the sessions.
        threads: CPU threads for one run.
        batch_images: Most images in one run of the network.
    """

    versions: VersionStore
    version_threads: VersionThreads
    limit_s: float
    engine: Engine
    device: Device
    threads: int
    batch_images: int

    async def load(self, model_version: str, *, low_priority: bool) -> LoadedModel:
        """Load one version.

        Args:
            model_version: The version.
            low_priority: Whether to load it on threads of low priority.

        Raises:
            Hanging: If it takes too long.
            NotFound: If it is not published.
            CorruptData: If its files are damaged, or it fails its self-check.
            PreconditionFailed: If the device is not available, or an earlier attempt has not ended.
            Unavailable: If there is no local copy and the store cannot be reached.
        """
        folder = await self.version_threads.run(
            model_version,
            lambda _: self.versions.fetch(model_version, rehash=True),
            limit_s=None,
            low_priority=low_priority,
        )
        return await self.version_threads.run(
            model_version,
            partial(self._open, folder),
            limit_s=self.limit_s,
            low_priority=low_priority,
        )

    def _open(self, folder: Path, cancellation: Cancellation) -> LoadedModel:
        manifest = read_manifest(folder)
        with mapped_weights():
            session = open_session(
                folder, self.engine, self.device, self.threads, self.batch_images
            )
            cancellation.ends_runs_of(session)
            check_golden(session, manifest)
            self._warm(session)
        return LoadedModel(manifest, session)

    def _warm(self, session: Session) -> None:
        # A GPU chooses its algorithms by batch size; a CPU is warm after the self-check.
        sizes = (1, self.batch_images) if self.device != "cpu" else ()
        for size in sizes:
            session.run(np.zeros((size, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8))
