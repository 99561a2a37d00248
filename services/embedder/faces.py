"""What the service says of a face."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.embedder.work import Answer


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

    faces: Sequence[EmbeddedFace]
    model_version: str


def embedded_faces(answer: Answer) -> list[EmbeddedFace]:
    """Take an answer apart."""
    magnitudes, qualities = answer.magnitudes.tolist(), answer.qualities.tolist()
    return list(map(EmbeddedFace, answer.embeddings, magnitudes, qualities))
