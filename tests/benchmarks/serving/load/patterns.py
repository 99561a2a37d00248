"""What callers do: ask without a pause, ask at a given rate, or leave before the answer."""

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

from tests.benchmarks.serving.load.connections import EMBEDDING_BYTES, Target, embed_request

_TOLERANCE = 1e-5

Pictures = Iterator[tuple[int, bytes]]


@dataclass
class Seen:
    """What the callers saw.

    Attributes:
        ended: When each call that was answered ended, by `time.monotonic`.
        took: Seconds each of them took.
        codes: How many calls ended how.
        flaws: What was wrong with an answer that should have been right, by name.
        began: When the load began, by `time.monotonic`.
        stopped: When it ended; what was in flight then was still answered.
        cpu_s: Processor time that asking took the client: it is taken from the server's machine.
    """

    ended: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    codes: Counter[str] = field(default_factory=Counter)
    flaws: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)
    stopped: float = 0.0
    cpu_s: float = 0.0

    def answered(self, started: float) -> None:
        now = time.monotonic()
        self.ended.append(now)
        self.took.append(now - started)
        self.codes["OK"] += 1


async def ask_without_pause(targets: list[Target], pictures: Pictures, seconds: float) -> Seen:
    """Each caller asks for the next picture when it has the answer to the last.

    A server's own fault is counted and the caller asks on, so that one of them in a thousand
    does not end the measurement; whoever reads the figure sees how many there were.
    """
    seen = Seen()
    seen.stopped = until = seen.began + seconds

    async def caller(target: Target) -> None:
        while (started := time.monotonic()) < until:
            try:
                answer = await target.embed(next(pictures)[1])
            except (RuntimeError, TimeoutError, grpc.aio.AioRpcError) as error:
                seen.codes[f"{type(error).__name__}: {error}"[:200]] += 1
                continue
            if len(answer) != EMBEDDING_BYTES:
                raise RuntimeError(f"an answer of {len(answer)} bytes instead of an embedding")
            seen.answered(started)

    await asyncio.gather(*map(caller, targets))
    return seen


async def ask_at_rate(stub: Any, pictures: Pictures, rate: float, seconds: float) -> Seen:
    """Ask so many times a second, whatever becomes of the calls before."""
    seen, running = Seen(), set()
    start = seen.began
    seen.stopped = start + seconds

    async def call(jpeg: bytes) -> None:
        started = time.monotonic()
        try:
            await stub.Embed(embed_request([jpeg]), timeout=60)
            seen.answered(started)
        except grpc.aio.AioRpcError as error:
            seen.codes[error.code().name] += 1
            if not _says_when_to_retry(error):
                seen.flaws["refused without RetryInfo"] += 1

    number = 0
    while (now := time.monotonic()) < start + seconds:
        # All that are due; a client that is late does not ask less.
        while number < (now - start) * rate:
            task = asyncio.create_task(call(next(pictures)[1]))
            running.add(task)
            task.add_done_callback(running.discard)
            number += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*running)
    return seen


def _says_when_to_retry(error: grpc.aio.AioRpcError) -> bool:
    status = rpc_status.from_call(error)
    details = status.details if status else ()
    return any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in details)


async def leave_early(
    stub: Any, pictures: Pictures, callers: int, patience: tuple[float, float], seconds: float
) -> Seen:
    """Callers that ask and go away between so many and so many seconds later, again and again."""
    seen, rng = Seen(), random.Random(0)
    seen.stopped = until = seen.began + seconds

    async def caller() -> None:
        while (started := time.monotonic()) < until:
            call = stub.Embed(embed_request([next(pictures)[1]]))
            await asyncio.sleep(rng.uniform(*patience))
            call.cancel()
            try:
                await call
                seen.answered(started)
            except asyncio.CancelledError:
                seen.codes["CANCELLED"] += 1
            except grpc.aio.AioRpcError as error:
                seen.codes[error.code().name] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return seen


class Checked:
    """Callers that hold every answer against the vectors its version must give.

    Args:
        references: An ``.npz`` file: version -> float32 [faces, 512].
        images: Pictures in a call.
    """

    def __init__(self, references: Path, images: int) -> None:
        self._references: dict[str, np.ndarray] = dict(np.load(references))
        self._images = images

    async def ask(
        self, stub: EmbedderServiceStub, pictures: Pictures, callers: int, stop: asyncio.Event
    ) -> Seen:
        """Ask without a pause until stopped."""
        seen = Seen()

        async def caller() -> None:
            while not stop.is_set():
                started = time.monotonic()
                faces, jpegs = zip(*(next(pictures) for _ in range(self._images)), strict=True)
                try:
                    answer = await stub.Embed(embed_request(list(jpegs)), timeout=60)
                except grpc.aio.AioRpcError as error:
                    seen.codes[error.code().name] += 1
                    continue
                seen.answered(started)
                if flaw := self._flaw(answer, list(faces)):
                    seen.flaws[flaw] += 1

        await asyncio.gather(*(caller() for _ in range(callers)))
        seen.stopped = time.monotonic()
        return seen

    def _flaw(self, answer: Any, faces: list[int]) -> str:
        got = np.stack([np.frombuffer(face.embedding, "<f4") for face in answer.faces])
        return flaw_of(got, answer.model_version, faces, self._references)


def flaw_of(
    got: np.ndarray, version: str, faces: list[int], references: dict[str, np.ndarray]
) -> str:
    """Name what is wrong with an answer; empty when it is what its version must give.

    Args:
        got: float32 [images, 512].
        version: What the answer says it is of.
        faces: Which face each image shows.
        references: version -> float32 [faces, 512].
    """
    right = {name: np.abs(got - all_[faces]).max(axis=1) for name, all_ in references.items()}
    if right[version].max() <= _TOLERANCE:
        return ""
    of = {name for row in range(len(got)) for name, off in right.items() if off[row] <= _TOLERANCE}
    return "mixed" if len(of) > 1 else "wrong"
