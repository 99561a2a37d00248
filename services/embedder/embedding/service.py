"""The embedder's service: embeds and compares faces, independent of gRPC."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from math import inf

from services.embedder.embedding.cache import CacheKey, EmbeddingCache, cache_key
from services.embedder.embedding.stream import FaceStream
from services.embedder.embedding.verification import (
    Side,
    Verdict,
    compare,
    low_quality,
    stored_magnitudes,
    stored_vectors,
)
from services.embedder.inference.pipeline import Pipeline
from services.embedder.inference.requests import EmbeddedFace, EmbedResult, NamedFace
from services.embedder.inference.small_pictures import are_small, encoded_bytes
from services.embedder.models.resident import LoadedModel, ResidentModels
from services.embedder.settings import MAX_IMAGES_PER_CALL
from shared.decoding.admission import Admission
from shared.errors import InvalidInput
from shared.model.image.face import Detection, FaceImage
from shared.rpc.budget import ByteBudget


class FaceEmbedder:
    """Embeds and compares faces with the loaded models; belongs to one event loop.

    Args:
        models: The loaded models.
        pipeline: Computes embeddings.
        admission: Bounds the work in flight.
        cache: Holds earlier embeddings.
        on_verified: Called with the two sides and the verdict of each comparison, for shadow
            evaluation; must return at once.
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
    ) -> EmbedResult:
        """Embed 1..64 faces with one model version.

        Args:
            faces: In the order of the answer.
            deadline: By `time.monotonic`; the faces are not computed after it.
            model_version: A loaded version; the serving one when empty.

        Raises:
            InvalidInput: For a face that cannot be read, as ``images[i]``; for too many or none;
                for too many pixels together.
            PreconditionFailed: If that version is not loaded.
            Overloaded: If the server is full, or the deadline passed.
            Unavailable: Before the first model is loaded.
        """
        if not 1 <= len(faces) <= MAX_IMAGES_PER_CALL:
            raise InvalidInput(
                "images", f"there are {len(faces)}; a call takes 1 to {MAX_IMAGES_PER_CALL}"
            )
        model = self._models.resolve(model_version).model
        named = [(f"images[{index}]", face) for index, face in enumerate(faces)]
        return EmbedResult(await self._embed(model, named, deadline), model.version)

    async def verify(
        self,
        a: Side,
        b: Side,
        deadline: float,
        model_version: str = "",
        minimum_quality: float | None = None,
    ) -> Verdict:
        """Compare two faces under one model version; the order does not matter.

        Args:
            a: A picture or a stored embedding.
            b: The other one.
            deadline: By `time.monotonic`; the faces are not computed after it.
            model_version: A loaded version; the serving one when empty.
            minimum_quality: 0..1; the verdict is unsure if a side is of lower quality or shows no
                face. None decides in any case.

        Raises:
            InvalidInput: For a picture that cannot be read, bytes that are not a unit vector of
                the model's size, a magnitude that is needed and not set, or a number that is not
                valid, as ``a.image.data`` and so on.
            PreconditionFailed: If that version is not loaded, or a stored embedding's version is
                not compatible with it.
            Overloaded: If the server is full, or the deadline passed.
            Unavailable: Before the first model is loaded.
        """
        active = self._models.resolve(model_version)
        sides, manifest = {"a": a, "b": b}, active.model.manifest
        vectors = stored_vectors(sides, manifest)
        magnitudes = stored_magnitudes(sides, minimum_quality)
        pictures = {name: side for name, side in sides.items() if isinstance(side, FaceImage)}
        faces: dict[str, EmbeddedFace] = {}
        if pictures:
            named = [(f"{name}.image", face) for name, face in pictures.items()]
            embedded = await self._embed(active.model, named, deadline)
            faces = dict(zip(pictures, embedded, strict=True))
            vectors |= {name: face.embedding for name, face in faces.items()}
        unsure_reason = low_quality(faces, magnitudes, minimum_quality, manifest)
        verdict = compare(vectors, faces, active, unsure_reason)
        self._on_verified(a, b, verdict)
        return verdict

    async def detect(self, face: FaceImage, deadline: float) -> Detection:
        """Find all faces in a picture; needs no model.

        Args:
            face: Only its picture is used.
            deadline: By `time.monotonic`.

        Raises:
            InvalidInput: As ``image``, if the picture cannot be read, or if the face says how to
                get or choose a crop of it.
            PreconditionFailed: If there is no detector.
            Overloaded: If the server is full, or the deadline passed.
        """
        _check_whole_picture(face, "image")
        size, speed = len(face.data), self._pipeline.seconds_per_image
        with self._admission.admit(1, size, speed, self._pipeline.decoded_pixels(face)):
            return await self._pipeline.detect(("image", face), deadline)

    def open_stream(
        self, max_unanswered: int, budget: ByteBudget, stopping: asyncio.Event
    ) -> FaceStream:
        """Open a stream of faces, which wait for admission instead of being refused.

        Args:
            max_unanswered: See `FaceStream`.
            budget: See `FaceStream`.
            stopping: See `FaceStream`.
        """
        return FaceStream(
            self._admit_in_turn, self._embed_admitted, max_unanswered, budget, stopping
        )

    def _admit_in_turn(self, face: FaceImage) -> AbstractAsyncContextManager[None]:
        pixels = self._pipeline.decoded_pixels(face)
        return self._admission.admit_in_turn(len(face.data), pixels)

    async def _embed_admitted(self, face: FaceImage, model_version: str) -> EmbedResult:
        model = self._models.resolve(model_version).model
        named = [("image", face)]
        keys = _keys(model, named) if are_small(named) else await _hash_on_thread(model, named)
        return EmbedResult(await self._get_or_compute(model, named, keys, inf), model.version)

    async def _embed(
        self, model: LoadedModel, named: Sequence[NamedFace], deadline: float
    ) -> list[EmbeddedFace]:
        keys: list[CacheKey] = []
        if are_small(named):
            keys = _keys(model, named)
            if found := self._cache.find(keys):
                return found
        size, speed = encoded_bytes(named), self._pipeline.seconds_per_image
        pixels = sum(self._pipeline.decoded_pixels(face) for _, face in named)
        with self._admission.admit(len(named), size, speed, pixels):
            keys = keys or await _hash_on_thread(model, named)
            return await self._get_or_compute(model, named, keys, deadline)

    async def _get_or_compute(
        self,
        model: LoadedModel,
        named: Sequence[NamedFace],
        keys: Sequence[CacheKey],
        deadline: float,
    ) -> list[EmbeddedFace]:
        # Reversed, so that an error names the first of several equal faces.
        by_key = dict(zip(reversed(keys), reversed(named), strict=True))

        async def compute(missing: Sequence[CacheKey]) -> list[EmbeddedFace]:
            faces = [by_key[key] for key in missing]
            return await self._pipeline.compute(model, faces, deadline)

        return await self._cache.get_or_compute(keys, compute)


async def _hash_on_thread(model: LoadedModel, named: Sequence[NamedFace]) -> list[CacheKey]:
    return await asyncio.to_thread(_keys, model, named)


def _keys(model: LoadedModel, named: Sequence[NamedFace]) -> list[CacheKey]:
    return [cache_key(face, model.version) for _, face in named]


def _check_whole_picture(face: FaceImage, field: str) -> None:
    reason = "is set, but all faces of the image are listed: leave it out"
    if face.alignment not in ("unspecified", "detect"):
        raise InvalidInput(
            f"{field}.alignment", f"is {face.alignment}; faces are detected, so set it to detect"
        )
    if face.landmarks:
        raise InvalidInput(f"{field}.landmarks", reason)
    if face.box is not None:
        raise InvalidInput(f"{field}.box", reason)
    if face.on_several != "largest":
        raise InvalidInput(f"{field}.on_several", reason)
    if face.on_no_face != "refuse":
        raise InvalidInput(f"{field}.on_no_face", reason)
