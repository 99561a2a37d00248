"""The inference pipeline: decoding, batching and computing of faces."""

import asyncio
from collections.abc import Sequence

from services.embedder.inference.batcher import Batcher
from services.embedder.inference.coalescer import Coalescer
from services.embedder.inference.decoder import Decoder
from services.embedder.inference.engine import InferenceEngine
from services.embedder.inference.requests import (
    Deliver,
    EmbeddedFace,
    EngineOutput,
    EngineResult,
    InferenceRequest,
    NamedFace,
    new_request,
)
from services.embedder.models.resident import LoadedModel
from shared.decoding.pool import DecodePool
from shared.errors import without_frames
from shared.model.face_check import no_face
from shared.model.image.face import Detection, FaceImage
from shared.model.image.face_reader import FaceReader


class Pipeline:
    """Computes embeddings on a thread of its own; called from the event loop.

    Args:
        reader: Decodes and aligns small pictures.
        pool: Decodes and aligns all others; the caller starts and stops it.
        batch_images: Most images in one batch.
        deliver: Takes results back to the loop.
    """

    def __init__(
        self, reader: FaceReader, pool: DecodePool, batch_images: int, deliver: Deliver
    ) -> None:
        self._deliver = deliver
        self._pool = pool
        self._batcher = Batcher(batch_images)
        self._engine = InferenceEngine(self._batcher, deliver)
        self._decoder = Decoder(reader, pool, self._submit, deliver)
        self._coalescer = Coalescer(self._submit)

    @property
    def seconds_per_image(self) -> float:
        """Moving average of a batch's seconds divided by its images; 0 before the first batch."""
        return self._engine.seconds_per_image

    @property
    def seconds_in_run(self) -> float:
        """How long the network has been running for the batch it computes; 0 between batches."""
        return self._engine.seconds_in_run

    def start(self) -> None:
        self._engine.start()

    async def stop(self) -> None:
        """Compute what is queued, then end the thread; the pool must have stopped."""
        await asyncio.to_thread(self._engine.stop)

    def _submit(self, requests: Sequence[InferenceRequest]) -> None:
        try:
            self._batcher.submit(requests)
        except Exception as error:
            kept = without_frames(error)
            results = [(request, kept) for request in requests]
            self._deliver(lambda: results)

    async def compute(
        self, model: LoadedModel, faces: Sequence[NamedFace], deadline: float
    ) -> list[EmbeddedFace]:
        """Embed the faces of one call; cancelling it saves the work that has not begun.

        Args:
            model: Computes them.
            faces: At least one.
            deadline: By `time.monotonic`; the faces are not computed after it.

        Raises:
            InvalidInput: For the first face that cannot be read, also because decoding it takes
                too much time or memory, or whose crop shows no face and is not to be marked.
            PreconditionFailed: If a face must be detected and there is no detector.
            Overloaded: If the deadline passed before the faces were computed.
            CorruptData: If the network's output for one of them is zero or not finite.
        """
        outcome = await self._outcome(model, faces, deadline)
        try:
            if isinstance(outcome, Exception):
                raise outcome
            _refuse_no_face(faces, outcome)
            return outcome
        finally:
            # The error refers to this frame, which would keep it until the next garbage collection.
            del outcome

    async def _outcome(
        self, model: LoadedModel, faces: Sequence[NamedFace], deadline: float
    ) -> list[EmbeddedFace] | Exception:
        future: asyncio.Future[EngineResult] = asyncio.get_running_loop().create_future()
        request = new_request(model, len(faces), future.set_result, deadline)
        stop_decoding = None
        if self._decoder.fill_inline(request, faces):
            self._coalescer.add(request)
        else:
            stop_decoding = self._decoder.start(request, faces)
        try:
            result = await future
        except asyncio.CancelledError:
            self._batcher.discard(request)
            if stop_decoding is not None:
                stop_decoding()
            raise
        return result.faces(request.found) if isinstance(result, EngineOutput) else result

    def decoded_pixels(self, face: FaceImage) -> int:
        """Return the pixels that a face's picture has by its header."""
        return self._pool.decoded_pixels(face)

    async def detect(self, face: NamedFace, deadline: float) -> Detection:
        """Find all faces in a picture; cancelling it ends the work.

        Args:
            face: The picture.
            deadline: By `time.monotonic`.

        Raises:
            InvalidInput: If the picture cannot be read.
            PreconditionFailed: If there is no detector.
            Overloaded: If the deadline passed.
        """
        field, picture = face
        return await self._pool.detect(picture.data, field, deadline)


def _refuse_no_face(faces: Sequence[NamedFace], embedded: Sequence[EmbeddedFace]) -> None:
    for (field, wanted), face in zip(faces, embedded, strict=True):
        if face.no_face and wanted.on_no_face == "refuse":
            raise no_face(wanted, field)
