"""Verification of two faces: which embeddings are comparable, and the verdict."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.embedder.inference.requests import EmbeddedFace
from services.embedder.models.decision_rule import DecisionRule
from services.embedder.models.resident import ActiveModel
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
        magnitude: The magnitude that was computed with it; None if the caller gives none.
    """

    data: bytes
    model_version: str
    magnitude: float | None = None


Side = FaceImage | StoredEmbedding


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether two faces are of the same person.

    Attributes:
        similarity: Cosine, -1..1, a float32 number.
        rule: Of the version, at the operating point that was in force when the call was accepted.
        face_a: None if side a is a stored embedding.
        face_b: None if side b is a stored embedding.
        unsure_reason: Which side is of too low quality for the caller; empty if none is.

    A picture without a face is never of the same person as another one.
    """

    similarity: float
    rule: DecisionRule
    model_version: str
    face_a: EmbeddedFace | None
    face_b: EmbeddedFace | None
    unsure_reason: str = ""

    @property
    def threshold(self) -> float:
        """Similarities at or above it mean the same person."""
        return self.rule.threshold

    @property
    def same(self) -> bool:
        """The decision, where `unsure_reason` is empty."""
        return self.similarity >= self.threshold and not self.no_face

    @property
    def no_face(self) -> bool:
        """Whether the picture of a side shows no face."""
        a, b = self.face_a, self.face_b
        return (a is not None and a.no_face) or (b is not None and b.no_face)

    @property
    def probability(self) -> float | None:
        """Probability of the same person, 0..1; None if not calibrated, or without a face."""
        return None if self.no_face else self.rule.probability(self.similarity)

    @property
    def false_match_rate(self) -> float | None:
        """Share of strangers at least as similar, 0..1; None if not measured, or without a face."""
        return None if self.no_face else self.rule.false_match_rate(self.similarity)


def compare(
    vectors: Mapping[str, NDArray[np.float32]],
    faces: Mapping[str, EmbeddedFace],
    active: ActiveModel,
    unsure_reason: str = "",
) -> Verdict:
    """Compare sides a and b.

    Args:
        vectors: Unit embeddings of both sides.
        faces: The sides that are pictures, by the field's name.
        active: The version that they are compared under.
        unsure_reason: See `Verdict`.
    """
    similarity = float(np.clip(np.dot(vectors["a"], vectors["b"]), -1.0, 1.0))
    a, b = faces.get("a"), faces.get("b")
    return Verdict(similarity, active.rule, active.version, a, b, unsure_reason)


def stored_magnitudes(sides: Mapping[str, Side], minimum_quality: float | None) -> dict[str, float]:
    """Read the magnitudes of the stored embeddings that have one.

    Args:
        sides: By the field's name.
        minimum_quality: The caller's; None if it sets none. With it, each stored embedding needs
            its magnitude.

    Raises:
        InvalidInput: If the minimum is not within 0..1, or a magnitude is missing or not a
            positive number.
    """
    # The comparisons are false for NaN, which is refused too.
    if minimum_quality is not None and not 0 <= minimum_quality <= 1:
        raise InvalidInput("minimum_quality", f"is {minimum_quality:g}; it must be within 0..1")
    magnitudes = {}
    for name, side in sides.items():
        if not isinstance(side, StoredEmbedding):
            continue
        if side.magnitude is None:
            if minimum_quality is None:
                continue
            raise InvalidInput(
                f"{name}.stored.magnitude",
                "is not set, but minimum_quality is; send the magnitude as Embed gave it",
            )
        if not 0 < side.magnitude < math.inf:
            raise InvalidInput(
                f"{name}.stored.magnitude",
                f"is {side.magnitude:g}, not finite and above 0; send it as Embed gave it",
            )
        magnitudes[name] = side.magnitude
    return magnitudes


def low_quality(
    faces: Mapping[str, EmbeddedFace],
    magnitudes: Mapping[str, float],
    minimum_quality: float | None,
    manifest: Manifest,
) -> str:
    """Say which sides are of a quality below a minimum, or show no face; empty if none is.

    Args:
        faces: The sides that are pictures, by the field's name.
        magnitudes: Those of the other sides.
        minimum_quality: 0..1; None accepts all.
        manifest: Of the version that they are compared under; it gives the quality of a stored
            magnitude.
    """
    if minimum_quality is None:
        return ""
    qualities = {name: face.quality for name, face in faces.items()} | {
        name: float(manifest.quality(np.array(value, np.float32)))
        for name, value in magnitudes.items()
    }
    reasons = []
    for name, quality in sorted(qualities.items()):
        if name in faces and faces[name].no_face:
            reasons.append(f"side {name} shows no face")
        elif quality < minimum_quality:
            # Rounded down, so that it reads as lower than the minimum.
            shown = math.floor(quality * 1000) / 1000
            reasons.append(
                f"the quality of side {name} is {shown:.3f}, "
                f"below the minimum_quality {minimum_quality:g}"
            )
    return "; ".join(reasons)


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
