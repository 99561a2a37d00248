"""Load generator and consistency check for tests that kill the service and its stores."""

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
import psycopg
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from deploy.local.child_process import ChildProcess
from shared.rpc.channel import open_channel
from shared.storage.objects import ObjectStore, image_key
from tests.services.feedback.support.helpers import picture, sent
from tests.services.feedback.support.stack import FeedbackStack

Stub = feedback_pb2_grpc.FeedbackServiceStub

SUBMITTERS: Final = 16
_CALL_S: Final = 10.0
_RETRY_S: Final = 0.1
# First of the images that are erased again and again; no label on them is checked.
_CHURNED: Final = 1_000_000


@dataclass
class Load:
    """Submitters that repeat each label until it is acknowledged.

    Attributes:
        acknowledged: (image_a, image_b, label) by annotator; each gives one label.
        erased: Number of acknowledged erasures.
    """

    stub: Stub
    seed: int
    going: bool = True
    acknowledged: dict[str, tuple[str, str, str]] = field(default_factory=dict)
    erased: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    async def submit(self, number: int) -> None:
        rng = random.Random(self.seed * 1000 + number)
        turn = 0
        while self.going:
            turn += 1
            annotator = f"submitter-{number}-{turn}"
            first, second = rng.sample(range(40 + len(self.acknowledged) // 4), 2)
            label = rng.choice([pb.LABEL_SAME, pb.LABEL_DIFFERENT])
            request = pb.SubmitFeedbackRequest(
                image_a=sent(first),
                image_b=sent(second),
                label=label,
                annotator=annotator,
                idempotency_key=annotator,
            )
            if answer := await self._insist(self.stub.SubmitFeedback, request):
                pair = sorted((answer.sha256_a, answer.sha256_b))
                name = pb.Label.Name(label).removeprefix("LABEL_").lower()
                self.acknowledged[annotator] = (*pair, name)
                self.news.set()

    async def churn(self) -> None:
        """Store and erase the same images again and again."""
        turn = 0
        while self.going:
            turn += 1
            first, second = _CHURNED + turn % 3, _CHURNED + (turn + 1) % 3
            key = f"churn-{turn}"
            label = pb.SubmitFeedbackRequest(
                image_a=sent(first),
                image_b=sent(second),
                label=pb.LABEL_SAME,
                annotator="churn",
                idempotency_key=key,
            )
            await self._insist(self.stub.SubmitFeedback, label)
            erase = pb.DeleteImageRequest(
                sha256=hashlib.sha256(picture(first)).hexdigest(),
                requested_by="churn",
                request_id=key,
            )
            if await self._insist(self.stub.DeleteImage, erase):
                self.erased += 1
                self.news.set()

    async def _insist(self, call: Callable[..., Awaitable[Any]], request: Any) -> Any:
        while self.going:
            try:
                return await call(request, timeout=_CALL_S)
            except grpc.aio.AioRpcError as error:
                assert error.code() in (
                    grpc.StatusCode.UNAVAILABLE,
                    grpc.StatusCode.DEADLINE_EXCEEDED,
                ), error
                await asyncio.sleep(_RETRY_S)
        return None


async def kill_under_load(parts: FeedbackStack, victims: list[ChildProcess], seed: int) -> Load:
    """Kill and restart each victim in turn, while labels are submitted."""
    rng = random.Random(seed)
    async with open_channel(parts.service.address) as channel:
        load = Load(Stub(channel), seed)
        tasks = [asyncio.create_task(load.submit(number)) for number in range(SUBMITTERS)]
        tasks.append(asyncio.create_task(load.churn()))
        for victim in victims:
            await asyncio.sleep(rng.uniform(0.2, 1.5))
            await asyncio.to_thread(victim.kill)
            await asyncio.sleep(rng.uniform(0, 0.5))
            await asyncio.to_thread(victim.start)
        # Wait for acknowledgements of labels that were sent after the last kill.
        wanted = len(load.acknowledged) + 2 * SUBMITTERS
        while len(load.acknowledged) < wanted or not load.erased:
            load.news.clear()
            await load.news.wait()
        load.going = False
        await asyncio.gather(*tasks)
    return load


@dataclass(frozen=True)
class Count:
    """Inconsistencies by kind; all empty if there are none.

    Attributes:
        lost: Acknowledged labels that are missing or differ.
        repeated: AnnotatorStats who gave one label and have several.
        missing: Images with a row whose object is missing or has other bytes.
        orphans: Objects without a row.
        wrong: Derived numbers that do not follow from the labels.
        unfinished: Erasures and removals that are not finished.
    """

    lost: list[str]
    repeated: list[str]
    missing: list[str]
    orphans: list[str]
    wrong: list[str]
    unfinished: list[str]


def count(parts: FeedbackStack, load: Load) -> Count:
    """Compare the acknowledged labels with the contents of the stores."""
    store = ObjectStore(parts.objects.settings())
    keys = {found.key.rpartition("/")[2]: found.key for found in store.list("images/")}
    # A killed nanio lists its temporary files, which the sweep leaves for an hour.
    objects = {name: key for name, key in keys.items() if not name.startswith(".tmp.")}
    with psycopg.connect(parts.database_url) as connection:
        rows = connection.execute(_LABELS).fetchall()
        images = {row[0] for row in connection.execute(_IMAGES)}
        wrong = [row[0] for row in connection.execute(_WRONG)]
        unfinished = [row[0] for row in connection.execute(_UNFINISHED)]
    given: dict[str, list[tuple[str, str, str]]] = {}
    for annotator, *label in rows:
        given.setdefault(annotator, []).append(tuple(label))
    return Count(
        lost=[who for who, label in load.acknowledged.items() if label not in given.get(who, [])],
        repeated=[who for who, labels in given.items() if len(labels) > 1 and who != "churn"],
        missing=[
            sha256
            for sha256 in images
            if sha256 not in objects
            or hashlib.sha256(store.get(objects[sha256])).hexdigest() != sha256
        ],
        orphans=sorted(objects.keys() - images),
        wrong=wrong,
        unfinished=unfinished,
    )


_LABELS: Final = """
SELECT annotator, encode(image_a, 'hex'), encode(image_b, 'hex'), label::text
FROM feedback.labels JOIN feedback.pairs USING (pair_id)
"""

_IMAGES: Final = "SELECT encode(sha256, 'hex') FROM feedback.images"

_UNFINISHED: Final = """
SELECT request_id FROM feedback.erasures WHERE finished_at IS NULL
UNION ALL SELECT encode(sha256, 'hex') FROM feedback.removals
"""

_WRONG: Final = """
WITH votes AS (
    SELECT DISTINCT ON (pair_id, annotator) pair_id, label
    FROM feedback.labels ORDER BY pair_id, annotator, label_id DESC
), counted AS (
    SELECT pair_id, count(*) FILTER (WHERE label = 'same') AS same,
           count(*) FILTER (WHERE label = 'different') AS different
    FROM votes GROUP BY pair_id
)
SELECT 'votes of pair ' || pair_id FROM counted FULL JOIN feedback.pair_consensus USING (pair_id)
WHERE (same, different) IS DISTINCT FROM (votes_same, votes_different)
UNION ALL
SELECT 'counters of images and labels' FROM feedback.counters
HAVING ARRAY[sum(images), sum(labels)]::bigint[] IS DISTINCT FROM
       ARRAY[(SELECT count(*) FROM feedback.images), (SELECT count(*) FROM feedback.labels)]
UNION ALL
SELECT 'counters of pairs' FROM feedback.counters
HAVING ARRAY[sum(pairs_same), sum(pairs_different), sum(pairs_undecided)]::bigint[]
       IS DISTINCT FROM
       (SELECT ARRAY[count(*) FILTER (WHERE consensus = 'same'),
                     count(*) FILTER (WHERE consensus = 'different'),
                     count(*) FILTER (WHERE consensus IS NULL)]
        FROM feedback.pair_consensus)
"""


def corrupt(parts: FeedbackStack) -> None:
    """Change the stores directly, in ways that `count` must detect."""
    store = ObjectStore(parts.objects.settings())
    store.remove(next(store.list("images/")).key)
    store.put(image_key("0" * 64), b"nobody's")
    with psycopg.connect(parts.database_url) as connection:
        connection.execute("UPDATE feedback.pair_consensus SET votes_same = votes_same + 1")
        connection.execute(
            "INSERT INTO feedback.erasures (request_id, action, actor)"
            " VALUES ('forgotten', 'erase_image', 'ann')"
        )
