"""Inference requests: the crops of one call, and the engine's output for them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from services.embedder.models.resident import LoadedModel
from shared.model.image.align import CROP_SIZE
from shared.model.image.face import DetectedFace, FaceCrop, FaceImage

# A face with the name of its field in the call, for errors.
NamedFace: TypeAlias = tuple[str, FaceImage]
# What FaceCrop says of a crop beside its pixels: the number of faces found, and the one it shows.
Found: TypeAlias = tuple[int, DetectedFace | None]


@dataclass(frozen=True, slots=True)
class EmbeddedFace:
    """The network's output for one face.

    Attributes:
        embedding: float32, (D,), of length 1.
        magnitude: Norm of the network's output.
        quality: Quantile of the magnitude in the model's reference set, 0..1.
        faces_found: Faces that were detected in the image; 0 if the detector did not run.
        detected: The detected face that was embedded; None if the detector did not run.
        no_face: Whether the crop shows no face; the embedding then means nothing.
    """

    embedding: NDArray[np.float32]
    magnitude: float
    quality: float
    faces_found: int = 0
    detected: DetectedFace | None = None
    no_face: bool = False


@dataclass(frozen=True, slots=True)
class EmbedResult:
    """Faces of one call, in its order, all of one model version."""

    faces: Sequence[EmbeddedFace]
    model_version: str


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The network's output for all crops of one request.

    Attributes:
        embeddings: float32, (N, D), rows of length 1.
        magnitudes: float32, (N,), norms of the network's output.
        qualities: float32, (N,), quantiles of the magnitudes in the model's reference set, 0..1.
        shows_face: bool, (N,), whether each crop looks like a face.
    """

    embeddings: NDArray[np.float32]
    magnitudes: NDArray[np.float32]
    qualities: NDArray[np.float32]
    shows_face: NDArray[np.bool_]

    def faces(self, found: Sequence[Found]) -> list[EmbeddedFace]:
        """Give the faces one by one.

        Args:
            found: Of the request, which has one for each crop.
        """
        magnitudes, qualities = self.magnitudes.tolist(), self.qualities.tolist()
        counts, detected = zip(*found, strict=True)
        # What the detector found is a face.
        no_face = [
            not shows_face and face is None
            for shows_face, face in zip(self.shows_face.tolist(), detected, strict=True)
        ]
        return list(
            map(EmbeddedFace, self.embeddings, magnitudes, qualities, counts, detected, no_face)
        )


EngineResult: TypeAlias = EngineOutput | Exception


@dataclass(eq=False, slots=True)
class InferenceRequest:
    """Crops of one call. A request is never split between batches.

    Attributes:
        model: Computes the crops.
        crops: uint8, (N, 112, 112, 3), BGR; complete before the batcher gets them.
        found: What was detected for each of the N crops.
        reply: Takes the result; called on the event loop.
        deadline: By `time.monotonic`; the request is not computed after it.
        abandoned: Set when the caller has cancelled its call.
    """

    model: LoadedModel
    crops: NDArray[np.uint8]
    found: list[Found]
    reply: Callable[[EngineResult], None]
    deadline: float = inf
    abandoned: bool = False

    @property
    def images(self) -> int:
        return len(self.crops)

    def set_crop(self, index: int, crop: FaceCrop) -> None:
        """Set one of the N crops; threads may set different ones at the same time."""
        self.crops[index] = crop.pixels
        self.found[index] = crop.faces_found, crop.face

    @property
    def expired(self) -> bool:
        return self.deadline <= time.monotonic()


def new_request(
    model: LoadedModel, images: int, reply: Callable[[EngineResult], None], deadline: float = inf
) -> InferenceRequest:
    """Make a request with uninitialised crops for so many images."""
    crops = np.empty((images, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
    return InferenceRequest(model, crops, [(0, None)] * images, reply, deadline)


RequestResults: TypeAlias = Sequence[tuple[InferenceRequest, EngineResult]]
# Takes a function instead of its results, so that the loop computes them and not the caller.
Deliver: TypeAlias = Callable[[Callable[[], RequestResults]], None]


def deliver_on(loop: asyncio.AbstractEventLoop) -> Deliver:
    """Make a function that brings results from any thread to the event loop.

    All results of a batch are delivered with one wake-up of the loop, and are computed there: each
    step in Python on another thread would take the interpreter's lock from the loop.
    """

    def reply_all(results: Callable[[], RequestResults]) -> None:
        for request, result in results():
            if not request.abandoned:
                request.reply(result)

    def deliver(results: Callable[[], RequestResults]) -> None:
        loop.call_soon_threadsafe(reply_all, results)

    return deliver
