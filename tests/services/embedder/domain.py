"""The embedder's domain without a server, for tests with a stand-in session."""

import asyncio

import numpy as np

from services.embedder.embedding.cache import EmbeddingCache
from services.embedder.embedding.service import FaceEmbedder
from services.embedder.embedding.verification import StoredEmbedding
from services.embedder.inference.pipeline import Pipeline
from services.embedder.inference.requests import deliver_on
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.models.version_threads import VersionThreads
from services.embedder.rollout.shadow import ShadowEvaluator
from shared.decoding.admission import Admission
from shared.model.image.face import FaceImage
from shared.model.image.face_reader import FaceReader
from shared.settings import ImageLimits
from tests.services.embedder.faces import crops, png
from tests.services.embedder.standin import load, model
from tests.support.decoding import decode_pool

FACES = [FaceImage(png(crop), "aligned") for crop in crops(6)]


class Service:
    """All of the embedder except its gRPC server; no model is loaded yet."""

    def __init__(self, max_images: int = 128, batch_images: int = 4, cache_bytes: int = 0) -> None:
        deliver = deliver_on(asyncio.get_running_loop())
        self.models = ResidentModels()
        reader = FaceReader(ImageLimits())
        self.pipeline = Pipeline(reader, decode_pool(), batch_images, deliver)
        self.admission = Admission(max_images, 2**24)
        self.cache = EmbeddingCache(cache_bytes)
        shadow = ShadowEvaluator(
            self.models, decode_pool(), load, self.admission.idle, 0.0, threads=VersionThreads()
        )
        self.faces = FaceEmbedder(
            self.models, self.pipeline, self.admission, self.cache, shadow.offer
        )

    async def __aenter__(self) -> "Service":
        self.pipeline.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.pipeline.stop()

    @property
    def queued(self) -> bool:
        """Whether a request waits for the engine."""
        batcher = self.pipeline._batcher
        return bool(batcher._waiting or batcher._next.requests)


def held(version: str) -> LoadedModel:
    """A model whose batches wait for `StandInSession.go_on`."""
    held = model(version)
    held.session.go_on.clear()
    return held


def stored(vector: np.ndarray, version: str = "v1") -> StoredEmbedding:
    return StoredEmbedding(vector.astype("<f4").tobytes(), version)
