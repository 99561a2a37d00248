"""Labels a second: over gRPC, at the store, and bare."""

import asyncio
import hashlib
import itertools
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psycopg
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.labels.service import LabelService
from services.feedback.labels.types import Feedback, Label
from services.feedback.server import open_label_service
from shared.rpc.channel import open_channel
from shared.storage.objects import ObjectStore
from tests.services.feedback.helpers import settings_for
from tests.services.feedback.parts import Parts

_BATCH: Final = 256
_LABELS: Final = {Label.SAME: pb.LABEL_SAME, Label.DIFFERENT: pb.LABEL_DIFFERENT}
_keys = itertools.count()

_PAIR: Final = """
INSERT INTO feedback.pairs (image_a, image_b) VALUES (%(a)s, %(b)s)
ON CONFLICT (image_a, image_b) DO NOTHING
"""
_LABEL: Final = """
INSERT INTO feedback.labels (pair_id, annotator, label, idempotency_key)
SELECT pair_id, %(annotator)s, %(label)s, %(key)s
FROM feedback.pairs WHERE image_a = %(a)s AND image_b = %(b)s
"""
_CONSENSUS: Final = """
INSERT INTO feedback.pair_consensus
SELECT pair_id, %(label)s, 1, 1, 0, 0, now()
FROM feedback.pairs WHERE image_a = %(a)s AND image_b = %(b)s
ON CONFLICT (pair_id) DO UPDATE SET votes_same = pair_consensus.votes_same + 1
"""


@dataclass(frozen=True)
class _Said:
    """A label, as each way is given it."""

    image_a: str
    image_b: str
    label: Label
    annotator: str
    key: str

    @property
    def row(self) -> dict[str, Any]:
        return {
            "a": bytes.fromhex(min(self.image_a, self.image_b)),
            "b": bytes.fromhex(max(self.image_a, self.image_b)),
            "label": self.label.value,
            "annotator": self.annotator,
            "key": self.key,
        }


_Way = Callable[[Sequence[_Said]], Awaitable[None]]


async def measure_storing(
    parts: Parts, stored: int, submitted: int, rounds: int, callers: int
) -> dict[str, Any]:
    """Let the ways take turns; ratios are each way's speed over the bare ones' of its round."""
    rng = random.Random(stored)
    images = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(1, stored // 10 + 1)]
    async with _ways(parts, callers) as ways:
        for way in ways.values():
            await way(_draw(rng, images, 200))
        speeds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(rounds):
            for name in sorted(ways, reverse=bool(turn % 2)):
                labels = _draw(rng, images, submitted)
                start = time.perf_counter()
                await ways[name](labels)
                speeds[name].append(submitted / (time.perf_counter() - start))
            sys.stderr.write(f"storing on {stored} labels: round {turn + 1} of {rounds}\n")
    return {
        "labels_per_second": {name: median(speed) for name, speed in speeds.items()},
        "ratios": {way: _ratio(speeds, way, "bare_each") for way in ("grpc", "store", "stream")},
        "ratios_to_batches": {
            way: _ratio(speeds, way, "bare_batches") for way in ("grpc", "store", "stream")
        },
    }


def _ratio(speeds: dict[str, list[float]], way: str, bare: str) -> float:
    return median(one / other for one, other in zip(speeds[way], speeds[bare], strict=True))


def _draw(rng: random.Random, images: Sequence[str], count: int) -> list[_Said]:
    labels = []
    for _ in range(count):
        first, second = rng.sample(images, 2)
        label = rng.choice([Label.SAME, Label.DIFFERENT])
        labels.append(_Said(first, second, label, f"ann-{rng.randrange(97)}", f"b-{next(_keys)}"))
    return labels


@asynccontextmanager
async def _ways(parts: Parts, callers: int) -> AsyncIterator[dict[str, _Way]]:
    settings = settings_for(parts.database_url, parts.objects.settings(), database_timeout_s=30.0)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(parts.service.address))
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        objects = ObjectStore(settings)
        store, _ = await stack.enter_async_context(open_label_service(settings, objects))
        connections = [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(parts.database_url)
            )
            for _ in range(callers)
        ]
        yield {
            "grpc": lambda labels: _over_grpc(stub, labels, callers),
            "stream": lambda labels: _over_stream(stub, labels),
            "store": lambda labels: _at_the_store(store, labels, callers),
            "bare_each": lambda labels: _bare_each(connections, labels),
            "bare_batches": lambda labels: _bare_batches(connections[0], labels),
        }


async def _at_once(
    labels: Sequence[_Said], callers: int, submit: Callable[[_Said], Awaitable[object]]
) -> None:
    """Each caller sends its next label when the last is durable."""
    waiting = iter(labels)

    async def call() -> None:
        for label in waiting:
            await submit(label)

    await asyncio.gather(*(call() for _ in range(callers)))


def _request(said: _Said) -> pb.SubmitFeedbackRequest:
    return pb.SubmitFeedbackRequest(
        image_a=pb.ImageRef(sha256=said.image_a),
        image_b=pb.ImageRef(sha256=said.image_b),
        label=_LABELS[said.label],
        annotator=said.annotator,
        idempotency_key=said.key,
    )


async def _over_grpc(
    stub: feedback_pb2_grpc.FeedbackServiceStub, labels: Sequence[_Said], callers: int
) -> None:
    await _at_once(labels, callers, lambda said: stub.SubmitFeedback(_request(said)))


async def _over_stream(
    stub: feedback_pb2_grpc.FeedbackServiceStub, labels: Sequence[_Said]
) -> None:
    async def requests() -> AsyncIterator[pb.SubmitFeedbackStreamRequest]:
        for said in labels:
            yield pb.SubmitFeedbackStreamRequest(feedback=_request(said))

    results = [
        result async for part in stub.SubmitFeedbackStream(requests()) for result in part.results
    ]
    if sum(result.stored.created for result in results) != len(labels):
        raise RuntimeError("the stream did not store every label")


async def _at_the_store(store: LabelService, labels: Sequence[_Said], callers: int) -> None:
    def feedback(said: _Said) -> Feedback:
        return Feedback(said.image_a, said.image_b, said.label, said.annotator, said.key)

    await _at_once(labels, callers, lambda said: store.submit(feedback(said)))


async def _bare_each(
    connections: Sequence[psycopg.AsyncConnection], labels: Sequence[_Said]
) -> None:
    waiting = iter(labels)

    async def call(connection: psycopg.AsyncConnection) -> None:
        for said in waiting:
            async with connection.pipeline():
                for statement in (_PAIR, _LABEL, _CONSENSUS):
                    await connection.execute(statement, said.row)
                await connection.commit()

    await asyncio.gather(*map(call, connections))


async def _bare_batches(connection: psycopg.AsyncConnection, labels: Sequence[_Said]) -> None:
    cursor = connection.cursor()
    for start in range(0, len(labels), _BATCH):
        rows = [said.row for said in labels[start : start + _BATCH]]
        for statement in (_PAIR, _LABEL, _CONSENSUS):
            await cursor.executemany(statement, rows)
        await connection.commit()
