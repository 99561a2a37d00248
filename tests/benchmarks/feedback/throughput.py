"""Labels per second: over gRPC, in the service's store, and with bare psycopg."""

import asyncio
import hashlib
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

import psycopg
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.images.damaged import DamagedImages
from services.feedback.labels.service import LabelService
from services.feedback.labels.types import Feedback, Label
from services.feedback.server import open_label_service, open_vaults
from shared.rpc.channel import open_channel
from shared.storage.objects import ObjectStore
from tests.benchmarks.progress import log
from tests.services.feedback.support.helpers import settings_for
from tests.services.feedback.support.stack import FeedbackStack

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
class _NewLabel:
    """A label to store."""

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


_Submit = Callable[[Sequence[_NewLabel]], Awaitable[None]]


async def measure_throughput(
    parts: FeedbackStack, stored: int, submitted: int, rounds: int, callers: int
) -> dict[str, Any]:
    """Measure all alternatives in each round; ratios are to the bare ones of the same round."""
    rng = random.Random(stored)
    images = [hashlib.sha256(str(n).encode()).hexdigest() for n in range(1, stored // 10 + 1)]
    async with _open_alternatives(parts, callers) as alternatives:
        for submit in alternatives.values():
            await submit(_draw(rng, images, 200))
        speeds: dict[str, list[float]] = {name: [] for name in alternatives}
        for turn in range(rounds):
            for name in sorted(alternatives, reverse=bool(turn % 2)):
                labels = _draw(rng, images, submitted)
                start = time.perf_counter()
                await alternatives[name](labels)
                speeds[name].append(submitted / (time.perf_counter() - start))
            log(f"throughput at {stored} labels: round {turn + 1} of {rounds}")
    return {
        "labels_per_second": {name: median(speed) for name, speed in speeds.items()},
        "ratios": {name: _ratio(speeds, name, "bare_each") for name in ("grpc", "store", "stream")},
        "ratios_to_batches": {
            name: _ratio(speeds, name, "bare_batches") for name in ("grpc", "store", "stream")
        },
    }


def _ratio(speeds: dict[str, list[float]], name: str, bare: str) -> float:
    return median(one / other for one, other in zip(speeds[name], speeds[bare], strict=True))


def _draw(rng: random.Random, images: Sequence[str], count: int) -> list[_NewLabel]:
    labels = []
    for _ in range(count):
        first, second = rng.sample(images, 2)
        label = rng.choice([Label.SAME, Label.DIFFERENT])
        labels.append(
            _NewLabel(first, second, label, f"ann-{rng.randrange(97)}", f"b-{next(_keys)}")
        )
    return labels


@asynccontextmanager
async def _open_alternatives(
    parts: FeedbackStack, callers: int
) -> AsyncIterator[dict[str, _Submit]]:
    settings = settings_for(parts.database_url, parts.objects.settings(), database_timeout_s=30.0)
    async with AsyncExitStack() as stack:
        channel = await stack.enter_async_context(open_channel(parts.service.address))
        stub = feedback_pb2_grpc.FeedbackServiceStub(channel)
        vaults = open_vaults(settings, ObjectStore(settings), DamagedImages())
        new_vault = await stack.enter_async_context(vaults)
        store, _ = await stack.enter_async_context(open_label_service(settings, new_vault))
        connections = [
            await stack.enter_async_context(
                await psycopg.AsyncConnection.connect(parts.database_url)
            )
            for _ in range(callers)
        ]
        yield {
            "grpc": lambda labels: _over_grpc(stub, labels, callers),
            "stream": lambda labels: _over_stream(stub, labels),
            "store": lambda labels: _to_the_store(store, labels, callers),
            "bare_each": lambda labels: _bare_each(connections, labels),
            "bare_batches": lambda labels: _bare_batches(connections[0], labels),
        }


async def _submit_concurrently(
    labels: Sequence[_NewLabel], callers: int, submit: Callable[[_NewLabel], Awaitable[object]]
) -> None:
    """Each caller sends its next label when the last one is durable."""
    remaining = iter(labels)

    async def call() -> None:
        for label in remaining:
            await submit(label)

    await asyncio.gather(*(call() for _ in range(callers)))


def _request(new: _NewLabel) -> pb.SubmitFeedbackRequest:
    return pb.SubmitFeedbackRequest(
        image_a=pb.ImageRef(sha256=new.image_a),
        image_b=pb.ImageRef(sha256=new.image_b),
        label=_LABELS[new.label],
        annotator=new.annotator,
        idempotency_key=new.key,
    )


async def _over_grpc(
    stub: feedback_pb2_grpc.FeedbackServiceStub, labels: Sequence[_NewLabel], callers: int
) -> None:
    await _submit_concurrently(labels, callers, lambda label: stub.SubmitFeedback(_request(label)))


async def _over_stream(
    stub: feedback_pb2_grpc.FeedbackServiceStub, labels: Sequence[_NewLabel]
) -> None:
    async def requests() -> AsyncIterator[pb.SubmitFeedbackStreamRequest]:
        for label in labels:
            yield pb.SubmitFeedbackStreamRequest(feedback=_request(label))

    results = [
        result async for part in stub.SubmitFeedbackStream(requests()) for result in part.results
    ]
    if sum(result.stored.created for result in results) != len(labels):
        raise RuntimeError("the stream did not store every label")


async def _to_the_store(store: LabelService, labels: Sequence[_NewLabel], callers: int) -> None:
    def feedback(new: _NewLabel) -> Feedback:
        return Feedback(new.image_a, new.image_b, new.label, new.annotator, new.key)

    await _submit_concurrently(labels, callers, lambda label: store.submit(feedback(label)))


async def _bare_each(
    connections: Sequence[psycopg.AsyncConnection], labels: Sequence[_NewLabel]
) -> None:
    remaining = iter(labels)

    async def call(connection: psycopg.AsyncConnection) -> None:
        for label in remaining:
            async with connection.pipeline():
                for statement in (_PAIR, _LABEL, _CONSENSUS):
                    await connection.execute(statement, label.row)
                await connection.commit()

    await asyncio.gather(*map(call, connections))


async def _bare_batches(connection: psycopg.AsyncConnection, labels: Sequence[_NewLabel]) -> None:
    cursor = connection.cursor()
    for start in range(0, len(labels), _BATCH):
        rows = [label.row for label in labels[start : start + _BATCH]]
        for statement in (_PAIR, _LABEL, _CONSENSUS):
            await cursor.executemany(statement, rows)
        await connection.commit()
