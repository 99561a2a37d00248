"""The way of a face from its bytes to its embedding: decode, batch, compute."""

import asyncio
from collections.abc import Sequence

from services.embedder.inference.batcher import Batcher
from services.embedder.inference.coalescer import Burst
from services.embedder.inference.decoder import Decoder, NamedFace
from services.embedder.inference.engine import Engine
from services.embedder.inference.requests import (
    Answer,
    Deliver,
    EmbeddedFace,
    Outcome,
    Work,
    embedded_faces,
    new_work,
)
from services.embedder.models.resident import LoadedModel
from shared.model.image.face_reader import FaceReader


class Pipeline:
    """Computes embeddings; belongs to the loop's thread, works on others.

    Args:
        reader: Reads one face.
        decode_threads: Threads that decode and align.
        batch_images: Most images in one batch.
        deliver: Takes outcomes back to the loop.
    """

    def __init__(
        self, reader: FaceReader, decode_threads: int, batch_images: int, deliver: Deliver
    ) -> None:
        self._deliver = deliver
        self._batcher = Batcher(batch_images)
        self._engine = Engine(self._batcher, deliver)
        self._decoder = Decoder(reader, decode_threads, self._submit, deliver)
        self._burst = Burst(self._submit)

    @property
    def seconds_per_image(self) -> float:
        """Running mean of what one image takes within a batch; 0 before the first."""
        return self._engine.seconds_per_image

    def start(self) -> None:
        self._engine.start()

    async def stop(self) -> None:
        """Compute what is queued, then end the threads."""
        await asyncio.to_thread(self._decoder.stop)
        await asyncio.to_thread(self._engine.stop)

    def _submit(self, works: Sequence[Work]) -> None:
        try:
            self._batcher.submit(works)
        except Exception as error:
            settled = [(work, error) for work in works]
            self._deliver(lambda: settled)

    async def compute(
        self, model: LoadedModel, faces: Sequence[NamedFace], deadline: float
    ) -> list[EmbeddedFace]:
        """Embed faces in one batch; not at all once the caller has left.

        Args:
            model: What computes them.
            faces: At least one, each with the name of its field.
            deadline: By `time.monotonic`; not computed after it.

        Raises:
            InvalidInput: For the first face that cannot be read.
            PreconditionFailed: If a face must be detected and there is no detector.
            Overloaded: If the deadline passed before their turn came.
            CorruptData: If the network gives no usable numbers for one of them.
        """
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        work = new_work(model, len(faces), future.set_result, deadline)
        if self._decoder.fill_at_once(work, faces):
            self._burst.add(work)
        else:
            self._decoder.start(work, faces)
        try:
            outcome = await future
        except asyncio.CancelledError:
            self._batcher.discard(work)
            raise
        if isinstance(outcome, Answer):
            return embedded_faces(outcome)
        raise outcome
