"""Loading of model versions: fetch, open, self-check and warm-up."""

from dataclasses import dataclass

import numpy as np

from services.embedder.models.resident import LoadedModel
from shared.heap import mapped_weights
from shared.model.golden import check_golden
from shared.model.image.align import CROP_SIZE
from shared.model.manifest import read_manifest
from shared.model.sessions.base import Device, Engine, Session
from shared.model.sessions.factory import open_session
from shared.registry.version_store import VersionStore


@dataclass(frozen=True)
class Loader:
    """Loads versions without touching the serving one. Blocks, so call it on another thread.

    Attributes:
        versions: The published versions and their local copies.
        engine: Of the sessions.
        device: Of the sessions.
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
            CorruptData: If its files are damaged, or it fails its self-check.
            PreconditionFailed: If the device is not available.
            Unavailable: If there is no local copy and the store cannot be reached.
        """
        folder = self.versions.fetch(model_version, rehash=True)
        manifest = read_manifest(folder)
        with mapped_weights():
            session = open_session(
                folder, self.engine, self.device, self.threads, self.batch_images
            )
            check_golden(session, manifest)
            self._warm(session)
        return LoadedModel(manifest, session)

    def _warm(self, session: Session) -> None:
        # A GPU chooses its algorithms by batch size; a CPU is warm after the self-check.
        sizes = (1, self.batch_images) if self.device != "cpu" else ()
        for size in sizes:
            session.run(np.zeros((size, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8))
