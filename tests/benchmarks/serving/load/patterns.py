"""Load patterns: closed loop, fixed rate, cancelled calls, and calls with checked answers."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from magface.v1.embedder_pb2_grpc import EmbedderServiceStub

from tests.benchmarks.serving.load.connections import EMBEDDING_BYTES, EmbedClient, embed_request

Pictures = Iterator[tuple[int, bytes]]


@dataclass
class LoadRecord:
    """Outcome of a load.

    Attributes:
        ended: End of each answered call, in seconds of `time.monotonic`.
        took: Duration of each answered call, in seconds.
        codes: Number of calls by their status.
        faults: Number of incorrect answers, by what is wrong with them.
        began: Start of the load, in seconds of `time.monotonic`.
        stopped: End of the load; calls in flight at that time are answered after it.
        cpu_s: Processor seconds of the client, which shares the machine with the server.
    """

    ended: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    stopped: float = 0.0
    cpu_s: float = 0.0

    def answered(self, started: float) -> None:
        now = time.monotonic()
        self.ended.append(now)
        self.took.append(now - started)
        self.codes["OK"] += 1


async def closed_loop(clients: list[EmbedClient], pictures: Pictures, seconds: float) -> LoadRecord:
    """Each caller sends its next call when the last one is answered.

    Failed calls are counted and do not end the load, so that a server with rare failures can be
    measured; the record has their number.
    """
    record = LoadRecord()
    record.stopped = until = record.began + seconds

    async def caller(client: EmbedClient) -> None:
        while (started := time.monotonic()) < until:
            try:
                answer = await client.embed(next(pictures)[1])
            except (RuntimeError, TimeoutError, grpc.aio.AioRpcError) as error:
                record.codes[f"{type(error).__name__}: {error}"[:200]] += 1
                continue
            if len(answer) != EMBEDDING_BYTES:
                raise RuntimeError(f"an answer of {len(answer)} bytes is no embedding")
            record.answered(started)

    await asyncio.gather(*map(caller, clients))
    return record


async def fixed_rate(stub: Any, pictures: Pictures, rate: float, seconds: float) -> LoadRecord:
    """Send calls at a fixed rate per second, without waiting for answers."""
    record, running = LoadRecord(), set()
    start = record.began
    record.stopped = start + seconds

    async def call(jpeg: bytes) -> None:
        started = time.monotonic()
        try:
            await stub.Embed(embed_request([jpeg]), timeout=60)
            record.answered(started)
        except grpc.aio.AioRpcError as error:
            record.codes[error.code().name] += 1
            if not _has_retry_info(error):
                record.faults["refused without RetryInfo"] += 1

    number = 0
    while (now := time.monotonic()) < start + seconds:
        # All calls that are due, so that a delay of the client does not lower the rate.
        while number < (now - start) * rate:
            task = asyncio.create_task(call(next(pictures)[1]))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*running)
    return record


def _has_retry_info(error: grpc.aio.AioRpcError) -> bool:
    status = rpc_status.from_call(error)
    details = status.details if status else ()
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)


async def cancelling_load(
    stub: Any, pictures: Pictures, callers: int, wait_s: tuple[float, float], seconds: float
) -> LoadRecord:
    """Each caller cancels its call after a random wait in this range, and sends the next one."""
    record, rng = LoadRecord(), random.Random(0)
    record.stopped = until = record.began + seconds

    async def caller() -> None:
        while (started := time.monotonic()) < until:
            call = stub.Embed(embed_request([next(pictures)[1]]))
            await asyncio.sleep(rng.uniform(*wait_s))
            call.cancel()
            try:
                await call
                record.answered(started)
            except asyncio.CancelledError:
                record.codes["CANCELLED"] += 1
            except grpc.aio.AioRpcError as error:
                record.codes[error.code().name] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return record


class CheckedLoad:
    """Callers that compare every answer with the embeddings of its model version.

    Args:
        references: An ``.npz`` file: version -> float32 [faces, 512].
        images: Images per call.
        tolerance: Largest difference of one value of an embedding.
    """

    def __init__(self, references: Path, images: int, tolerance: float) -> None:
        self._references: dict[str, np.ndarray] = dict(np.load(references))
        self._images = images
        self._tolerance = tolerance

    async def run(
        self, stub: EmbedderServiceStub, pictures: Pictures, callers: int, stop: asyncio.Event
    ) -> LoadRecord:
        """Run a closed loop until the event is set."""
        record = LoadRecord()

        async def caller() -> None:
            while not stop.is_set():
                started = time.monotonic()
                faces, jpegs = zip(*(next(pictures) for _ in range(self._images)), strict=True)
                try:
                    answer = await stub.Embed(embed_request(list(jpegs)), timeout=60)
                except grpc.aio.AioRpcError as error:
                    record.codes[error.code().name] += 1
                    continue
                record.answered(started)
                if fault := self._fault(answer, list(faces)):
                    record.faults[fault] += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
        record.stopped = time.monotonic()
        return record

    def _fault(self, answer: Any, faces: list[int]) -> str:
        got = np.stack([np.frombuffer(face.embedding, "<f4") for face in answer.faces])
        return find_fault(
            got, answer.model_version, faces, self._references, tolerance=self._tolerance
        )


def find_fault(
    got: np.ndarray,
    version: str,
    faces: list[int],
    references: dict[str, np.ndarray],
    *,
    tolerance: float,
) -> str:
    """Compare an answer with the embeddings of its model version.

    Args:
        got: float32 [images, 512].
        version: The model version that the answer names.
        faces: The face in each image.
        references: version -> float32 [faces, 512].
        tolerance: Largest difference of one value.

    Returns:
        "mixed" for embeddings of several versions, "wrong" for other incorrect ones, or "".
    """
    errors = {name: np.abs(got - own[faces]).max(axis=1) for name, own in references.items()}
    if errors[version].max() <= tolerance:
        return ""
    matching = {
        name for row in range(len(got)) for name, error in errors.items() if error[row] <= tolerance
    }
    return "mixed" if len(matching) > 1 else "wrong"
