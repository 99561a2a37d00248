"""What the service does, without its transport: faces in, embeddings and verdicts out."""

import asyncio
from collections.abc import Callable, Sequence
from math import inf

from services.embedder.embedding.admission import Admission
from services.embedder.embedding.cache import CacheKey, EmbeddingCache, cache_key
from services.embedder.embedding.stream import FaceStream
from services.embedder.embedding.verification import Side, Verdict, compare, stored_vectors
from services.embedder.inference.decoder import NamedFace
from services.embedder.inference.pipeline import Pipeline
from services.embedder.inference.requests import Embedded, EmbeddedFace
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.settings import MAX_IMAGES_A_CALL
from shared.errors import InvalidInput
from shared.model.image.face import FaceImage

# A fraction of a millisecond to hash; more than that is not done on the loop.
_HASHED_AT_ONCE_BYTES = 256 * 2**10


class FaceEmbedder:
    """Looks up, admits, computes and compares; lives on one event loop.

    Args:
        models: What is loaded, and what of it serves.
        pipeline: Computes.
        admission: Bounds what is in flight.
        cache: What was computed before.
        on_verified: Called with the two sides and the verdict of each comparison; must return
            at once. Shadow evaluation takes its sample here.
    """

    def __init__(
        self,
        models: ResidentModels,
        pipeline: Pipeline,
        admission: Admission,
        cache: EmbeddingCache,
        on_verified: Callable[[Side, Side, Verdict], None],
    ) -> None:
        self._models = models
        self._pipeline = pipeline
        self._admission = admission
        self._cache = cache
        self._on_verified = on_verified

    async def embed(
        self, faces: Sequence[FaceImage], deadline: float, model_version: str = ""
    ) -> Embedded:
        """Embed 1..64 faces with one model version.

        Args:
            faces: In the order of the answer.
            deadline: By `time.monotonic`; not computed after it.
            model_version: A loaded version to ask; the one that serves when empty.

        Raises:
            InvalidInput: For a face that cannot be read, as ``images[i]``; for too many or none.
            PreconditionFailed: If that version is not loaded.
            Overloaded: If there is no room for more work now.
            Unavailable: Before the first model is loaded.
        """
        if not 1 <= len(faces) <= MAX_IMAGES_A_CALL:
            raise InvalidInput(
                "images", f"there are {len(faces)}; a call takes 1 to {MAX_IMAGES_A_CALL}"
            )
        model = self._models.pick(model_version)
        named = [(f"images[{index}]", face) for index, face in enumerate(faces)]
        return Embedded(await self._embedded(model, named, deadline), model.version)

    async def verify(self, a: Side, b: Side, deadline: float, model_version: str = "") -> Verdict:
        """Compare two faces under one model version; the order does not matter.

        Args:
            a: A picture, or an embedding that was kept.
            b: The other.
            deadline: By `time.monotonic`; not computed after it.
            model_version: A loaded version to ask; the one that serves when empty.

        Raises:
            InvalidInput: For a picture that cannot be read, or bytes that are no unit
                vector of the model's size, as ``a.image.data`` and so on.
            PreconditionFailed: If that version is not loaded, or for an embedding of a
                version that does not compare with it.
            Overloaded: If there is no room for more work now.
            Unavailable: Before the first model is loaded.
        """
        model = self._models.pick(model_version)
        sides = {"a": a, "b": b}
        vectors = stored_vectors(sides, model.manifest)
        pictures = {name: side for name, side in sides.items() if isinstance(side, FaceImage)}
        faces: dict[str, EmbeddedFace] = {}
        if pictures:
            named = [(f"{name}.image", face) for name, face in pictures.items()]
            embedded = await self._embedded(model, named, deadline)
            faces = dict(zip(pictures, embedded, strict=True))
            vectors |= {name: face.embedding for name, face in faces.items()}
        verdict = compare(vectors, faces, model.manifest)
        self._on_verified(a, b, verdict)
        return verdict

    def open_stream(self, most: int, stopping: asyncio.Event) -> FaceStream:
        """Begin to embed many faces that wait for room instead of being refused.

        Args:
            most: See `FaceStream`.
            stopping: See `FaceStream`.
        """
        return FaceStream(self._admission.admit_in_turn, self._embed_admitted, most, stopping)

    async def _embed_admitted(self, face: FaceImage, model_version: str) -> Embedded:
        model = self._models.pick(model_version)
        named = [("image", face)]
        keys = await _hash(model, named)
        return Embedded(await self._filled(model, named, keys, inf), model.version)

    async def _embedded(
        self, model: LoadedModel, named: Sequence[NamedFace], deadline: float
    ) -> list[EmbeddedFace]:
        size = _size(named)
        keys: list[CacheKey] = []
        if size <= _HASHED_AT_ONCE_BYTES:
            keys = _keys(model, named)
            if found := self._cache.find(keys):
                return found
        with self._admission.admit(len(named), size, self._pipeline.seconds_per_image):
            keys = keys or await _hash(model, named)
            return await self._filled(model, named, keys, deadline)

    async def _filled(
        self,
        model: LoadedModel,
        named: Sequence[NamedFace],
        keys: Sequence[CacheKey],
        deadline: float,
    ) -> list[EmbeddedFace]:
        # Of two that are the same, the first gives its name to an error.
        by_key = dict(zip(reversed(keys), reversed(named), strict=True))

        async def compute(missing: Sequence[CacheKey]) -> list[EmbeddedFace]:
            faces = [by_key[key] for key in missing]
            return await self._pipeline.compute(model, faces, deadline)

        return await self._cache.fill(keys, compute)


async def _hash(model: LoadedModel, named: Sequence[NamedFace]) -> list[CacheKey]:
    if _size(named) <= _HASHED_AT_ONCE_BYTES:
        return _keys(model, named)
    return await asyncio.to_thread(_keys, model, named)


def _keys(model: LoadedModel, named: Sequence[NamedFace]) -> list[CacheKey]:
    return [cache_key(face, model.version) for _, face in named]


def _size(named: Sequence[NamedFace]) -> int:
    return sum(len(face.data) for _, face in named)
