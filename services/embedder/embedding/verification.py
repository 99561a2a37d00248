"""Verification of two faces: which embeddings are comparable, and the verdict."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.embedder.inference.requests import EmbeddedFace
from shared.errors import InvalidInput, PreconditionFailed
from shared.model.image.face import FaceImage
from shared.model.manifest import Manifest

# Allows for float32 rounding and arithmetic of the client.
_NORM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class StoredEmbedding:
    """An embedding that a caller has stored.

    Attributes:
        data: Packed little-endian float32.
        model_version: The version that computed it.
    """

    data: bytes
    model_version: str


Side = FaceImage | StoredEmbedding


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two faces are of the same person.

    Attributes:
        similarity: Cosine, -1..1.
        threshold: Similarities at or above it mean the same person.
        face_a: None if side a is a stored embedding.
        face_b: None if side b is a stored embedding.

    A picture without a face is never of the same person as another one.
    """

    similarity: float
    threshold: float
    model_version: str
    face_a: EmbeddedFace | None
    face_b: EmbeddedFace | None

    @property
    def same(self) -> bool:
        return self.similarity >= self.threshold and not self.no_face

    @property
    def no_face(self) -> bool:
        """Whether the picture of a side shows no face."""
        return any(face is not None and face.no_face for face in (self.face_a, self.face_b))


def compare(
    vectors: Mapping[str, NDArray[np.float32]],
    faces: Mapping[str, EmbeddedFace],
    manifest: Manifest,
) -> Verdict:
    """Compare sides a and b.

    Args:
        vectors: Unit embeddings of both sides.
        faces: The sides that are pictures, by the field's name.
        manifest: Of the version that they are compared under.
    """
    similarity = float(np.clip(np.dot(vectors["a"], vectors["b"]), -1.0, 1.0))
    # Rounded to float32 as in the response, so that a caller who compares them gets the same.
    threshold = float(np.float32(manifest.threshold))
    return Verdict(similarity, threshold, manifest.model_version, faces.get("a"), faces.get("b"))


def stored_vectors(sides: Mapping[str, Side], manifest: Manifest) -> dict[str, NDArray[np.float32]]:
    """Unpack the sides that are stored embeddings.

    Args:
        sides: By the field's name.
        manifest: Of the version that they are compared under.

    Raises:
        InvalidInput: If one is not a unit vector of the model's size.
        PreconditionFailed: If one is not comparable with the version, or with the other one.
    """
    stored = {name: side for name, side in sides.items() if isinstance(side, StoredEmbedding)}
    for name, side in stored.items():
        _check_comparable(f"{name}.stored.model_version", side.model_version, manifest)
    versions = {side.model_version for side in stored.values()}
    if len(versions) > 1 and manifest.model_version not in versions:
        raise PreconditionFailed(
            f"the stored embeddings are of {' and '.join(sorted(versions))}, whose compatibility "
            "with each other is not known; embed one of the images again"
        )
    return {
        name: unit_vector(side.data, manifest.embedding_size, f"{name}.stored.embedding")
        for name, side in stored.items()
    }


def _check_comparable(field: str, version: str, manifest: Manifest) -> None:
    if version != manifest.model_version and version not in manifest.compatible_versions:
        raise PreconditionFailed(
            f"{field}: embeddings of {version} are not comparable with those of "
            f"{manifest.model_version}, the version of this call; embed the image again"
        )


def unit_vector(data: bytes, size: int, field: str) -> NDArray[np.float32]:
    """Unpack a stored embedding.

    Args:
        data: Packed little-endian float32.
        size: Dimensions that it must have.
        field: Its name in the contract, for the error.

    Returns:
        float32, (size,), scaled to length 1.

    Raises:
        InvalidInput: If it has another size, is not finite, or is not a unit vector.
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
