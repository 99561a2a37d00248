"""What the service does, without its transport: faces in, embeddings and verdicts out."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.embedder.admission import Admission
from services.embedder.batcher import Batcher
from services.embedder.decoding import Decoder
from services.embedder.engine import Engine
from services.embedder.settings import MAX_IMAGES_A_CALL
from services.embedder.work import Answer, Outcome, new_work
from shared.errors import InvalidInput, PreconditionFailed, Unavailable
from shared.model.faces import FaceImage
from shared.model.manifest import Manifest

# Float32 rounding and a client's own arithmetic; beyond it, it is another vector.
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """An embedding that a caller kept.

    Attributes:
        data: Packed little-endian float32.
        model_version: The version that computed it.
    """

    data: bytes
    model_version: str


Side = FaceImage | StoredEmbedding


@dataclass(frozen=True, slots=True)
class EmbeddedFace:
    """What the network says of one face.

    Attributes:
        embedding: float32, (D,), of length 1.
        magnitude: Norm of the network's output.
        quality: The magnitude's place in the reference set, 0..1.
    """

    embedding: NDArray[np.float32]
    magnitude: float
    quality: float


@dataclass(frozen=True, slots=True)
class Embedded:
    """Faces of one call, in its order, all of one model version."""

    faces: list[EmbeddedFace]
    model_version: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two faces are of one person.

    Attributes:
        similarity: Cosine, -1..1.
        threshold: Similarities at or above it mean the same person.
        face_a: None where the side was a stored embedding.
        face_b: None where the side was a stored embedding.
    """

    similarity: float
    threshold: float
    model_version: str
    face_a: EmbeddedFace | None
    face_b: EmbeddedFace | None

    @property
    def same(self) -> bool:
        return self.similarity >= self.threshold


class FaceEmbedder:
    """Admits, decodes, batches and answers; lives on one event loop.

    Args:
        engine: Knows the version that serves.
        batcher: Feeds the engine.
        decoder: Feeds the batcher.
        admission: Bounds what is in flight.
    """

    def __init__(
        self, engine: Engine, batcher: Batcher, decoder: Decoder, admission: Admission
    ) -> None:
        self._engine = engine
        self._batcher = batcher
        self._decoder = decoder
        self._admission = admission

    async def embed(self, faces: Sequence[FaceImage], deadline: float) -> Embedded:
        """Embed 1..64 faces with one model version.

        Args:
            faces: In the order of the answer.
            deadline: By `time.monotonic`; not computed after it.

        Raises:
            InvalidInput: For a face that cannot be read, as ``images[i]``; for too many or none.
            Overloaded: If there is no room for more work now.
            Unavailable: Before the first model is loaded.
        """
        if not 1 <= len(faces) <= MAX_IMAGES_A_CALL:
            raise InvalidInput(
                "images", f"there are {len(faces)}; a call takes 1 to {MAX_IMAGES_A_CALL}"
            )
        named = [(f"images[{index}]", face) for index, face in enumerate(faces)]
        answer = await self._compute(named, deadline)
        return Embedded(_faces(answer), answer.manifest.model_version)

    async def verify(self, a: Side, b: Side, deadline: float) -> Verdict:
        """Compare two faces under one model version; the order does not matter.

        Args:
            a: A picture, or an embedding that was kept.
            b: The other.
            deadline: By `time.monotonic`; not computed after it.

        Raises:
            InvalidInput: For a picture that cannot be read, or bytes that are no unit
                vector of the model's size, as ``a.image.data`` and so on.
            PreconditionFailed: For an embedding of a version that does not compare.
            Overloaded: If there is no room for more work now.
            Unavailable: Before the first model is loaded.
        """
        sides = {"a": a, "b": b}
        serving = self._manifest()
        vectors = _stored_vectors(sides, serving)
        named = [(f"{n}.image", face) for n, face in sides.items() if isinstance(face, FaceImage)]
        faces: dict[str, EmbeddedFace] = {}
        if named:
            answer = await self._compute(named, deadline)
            if answer.manifest is not serving:
                serving = answer.manifest
                vectors = _stored_vectors(sides, serving)
            faces = dict(zip((n.partition(".")[0] for n, _ in named), _faces(answer), strict=True))
            vectors |= {name: face.embedding for name, face in faces.items()}
        similarity = float(np.clip(np.dot(vectors["a"], vectors["b"]), -1.0, 1.0))
        # In float32, as both travel, so that a caller who compares them decides alike.
        threshold = float(np.float32(serving.threshold))
        return Verdict(similarity, threshold, serving.model_version, faces.get("a"), faces.get("b"))

    def _manifest(self) -> Manifest:
        serving = self._engine.serving
        if serving is None:
            raise Unavailable("no model version is loaded yet; try again when health is SERVING")
        return serving.model.manifest

    async def _compute(self, faces: Sequence[tuple[str, FaceImage]], deadline: float) -> Answer:
        self._manifest()
        size = sum(len(face.data) for _, face in faces)
        with self._admission.admit(len(faces), size, self._engine.seconds_per_image):
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            work = new_work(len(faces), future.set_result, deadline)
            self._decoder.start(work, faces, self._batcher.submit)
            try:
                outcome = await future
            except asyncio.CancelledError:
                self._batcher.discard(work)
                raise
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


def _faces(answer: Answer) -> list[EmbeddedFace]:
    qualities = answer.manifest.quality(answer.magnitudes)
    rows = zip(answer.embeddings, answer.magnitudes, qualities, strict=True)
    return [EmbeddedFace(e, float(magnitude), float(quality)) for e, magnitude, quality in rows]


def _stored_vectors(sides: dict[str, Side], manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    stored = {name: side for name, side in sides.items() if isinstance(side, StoredEmbedding)}
    for name, side in stored.items():
        _check_comparable(f"{name}.stored.model_version", side.model_version, manifest)
    versions = {side.model_version for side in stored.values()}
    if len(versions) > 1 and manifest.model_version not in versions:
        raise PreconditionFailed(
            f"the stored embeddings are of {' and '.join(sorted(versions))}, which were never "
            "measured against each other; embed one of the images again"
        )
    return {
        name: unit_vector(side.data, manifest.embedding_size, f"{name}.stored.embedding")
        for name, side in stored.items()
    }


def _check_comparable(field: str, version: str, manifest: Manifest) -> None:
    if not version:
        raise InvalidInput(field, "is empty; give the model_version that came with the embedding")
    if version != manifest.model_version and version not in manifest.compatible_versions:
        raise PreconditionFailed(
            f"{field}: embeddings of {version} do not compare with those of "
            f"{manifest.model_version}, which serves; embed the image again"
        )


def unit_vector(data: bytes, size: int, field: str) -> NDArray[np.float32]:
    """Unpack a stored embedding.

    Args:
        data: Packed little-endian float32.
        size: Numbers it must have.
        field: What the contract calls it, for the error.

    Returns:
        float32, (size,), of length 1: small differences are scaled away.

    Raises:
        InvalidInput: If it has another length, or is not finite, or is no unit vector.
    """
    if len(data) != 4 * size:
        raise InvalidInput(
            field, f"has {len(data)} bytes; {4 * size} are needed, {size} float32 numbers"
        )
    vector = np.frombuffer(data, dtype="<f4").astype(np.float32)
    norm = float(np.linalg.norm(vector.astype(np.float64)))
    if not np.isfinite(norm):
        raise InvalidInput(field, "holds a number that is not finite")
    if abs(norm - 1.0) > _NORM_TOLERANCE:
        raise InvalidInput(
            field, f"has length {norm:.4g} instead of 1; send the embedding as Embed gave it"
        )
    return vector / np.float32(norm)
