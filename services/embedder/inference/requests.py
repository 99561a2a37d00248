"""What one request hands from thread to thread: its crops, and the answer to them."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from services.embedder.models.resident import LoadedModel
from shared.model.image.align import CROP_SIZE


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of all crops of one piece of work.

    Attributes:
        embeddings: float32, (N, D), unit rows.
        magnitudes: float32, (N,), norms of the raw outputs.
        qualities: float32, (N,), the magnitudes' places in the model's reference set, 0..1.
    """

    embeddings: NDArray[np.float32]
    magnitudes: NDArray[np.float32]
    qualities: NDArray[np.float32]


Outcome = Answer | Exception


@dataclass(eq=False, slots=True)
class Work:
    """Crops of one request. It is never split: one batch answers all of them.

    Attributes:
        model: What computes them.
        crops: uint8, (N, 112, 112, 3), BGR; complete before the batcher gets it.
        reply: Takes the outcome; called on the caller's own thread.
        deadline: By `time.monotonic`; nothing is computed after it.
        abandoned: Set once the caller has gone.
    """

    model: LoadedModel
    crops: NDArray[np.uint8]
    reply: Callable[[Outcome], None]
    deadline: float = inf
    abandoned: bool = False

    @property
    def images(self) -> int:
        return len(self.crops)

    @property
    def expired(self) -> bool:
        return self.deadline <= time.monotonic()


def new_work(
    model: LoadedModel, images: int, reply: Callable[[Outcome], None], deadline: float = inf
) -> Work:
    """Make work with room for the crops of so many images."""
    crops = np.empty((images, CROP_SIZE, CROP_SIZE, 3), dtype=np.uint8)
    return Work(model, crops, reply, deadline)


Settled = Sequence[tuple[Work, Outcome]]
Deliver = Callable[[Callable[[], Settled]], None]


def deliver_on(loop: asyncio.AbstractEventLoop) -> Deliver:
    """Bring outcomes from any thread to the loop that waits for them.

    A whole batch is delivered with one wake-up, and taken apart by the loop: each step in Python
    on another thread would take the interpreter's lock from the loop, and wait to get it back.
    """

    def settle(settled: Callable[[], Settled]) -> None:
        for work, outcome in settled():
            if not work.abandoned:
                work.reply(outcome)

    def deliver(settled: Callable[[], Settled]) -> None:
        loop.call_soon_threadsafe(settle, settled)

    return deliver


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
