"""People who label pairs whose truth they do not all know, past the network."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import psycopg
from numpy.typing import NDArray

from services.feedback.domain import Label
from services.feedback.opening import opened_store, prepare
from services.feedback.rules import Rules
from services.feedback.settings import FeedbackSettings
from services.feedback.store import FeedbackStore
from services.feedback.weighing import Weigher
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool
from tests.feedback.helpers import feedback

_IMAGES = (
    "INSERT INTO feedback.images (sha256, size_bytes, media_type, alignment)"
    " SELECT sha256(n::text::bytea), 1, 'image/png', 'aligned' FROM generate_series(0, %s) AS n"
)


@dataclass
class Electorate:
    """The domain with a rule of its own, on real stores."""

    store: FeedbackStore
    pool: Pool
    rules: Rules
    weigher: Weigher


@asynccontextmanager
async def electorate(
    settings: FeedbackSettings, objects: ObjectStore, *, weighted: bool = True
) -> AsyncIterator[Electorate]:
    rules = Rules(settings.feedback_minimum_votes, weighted=weighted)
    await prepare(settings, objects)
    async with opened_store(settings, objects, rules) as (store, pool):
        yield Electorate(store, pool, rules, Weigher(pool, rules))


def image(number: int) -> str:
    """The hash of an image that `add_images` has stored."""
    return hashlib.sha256(str(number).encode()).hexdigest()


def add_images(database_url: str, pairs: int) -> None:
    """Store the images of disjoint pairs, pair n of the images 2n and 2n+1."""
    with psycopg.connect(database_url) as connection:
        connection.execute(_IMAGES.encode(), [2 * pairs - 1])


async def say(store: FeedbackStore, votes: Mapping[tuple[int, str], Label]) -> None:
    """Submit what somebody says about a pair."""
    await asyncio.gather(
        *(
            store.submit(
                feedback(
                    image_a=image(2 * pair),
                    image_b=image(2 * pair + 1),
                    annotator=who,
                    label=label,
                )
            )
            for (pair, who), label in votes.items()
        )
    )


def draw_votes(
    truth: NDArray[np.bool_],
    right: Mapping[str, float],
    rng: np.random.Generator,
    asked: int | None = None,
) -> dict[tuple[int, str], Label]:
    """Have people answer, each as often right as said, about each pair some drawn from them."""
    names = list(right)
    votes = {}
    for pair, same in enumerate(truth.tolist()):
        for who in rng.choice(names, asked or len(names), replace=False).tolist():
            said = same == (rng.random() < right[who])
            votes[pair, who] = Label.SAME if said else Label.DIFFERENT
    return votes


async def judged(store: FeedbackStore, pairs: int) -> list[Label | None]:
    """The consensus of each pair."""
    found: dict[frozenset[str], Label | None] = {}
    token, more = "", True
    while more:
        page, token = await store.list_pairs(None, 1000, token)
        found |= {frozenset((one.image_a, one.image_b)): one.consensus for one in page}
        more = bool(token)
    return [found.get(frozenset((image(2 * n), image(2 * n + 1)))) for n in range(pairs)]


def share_right(consensus: list[Label | None], truth: NDArray[np.bool_]) -> float:
    """Share of the pairs whose consensus is what is true; none at all is not."""
    said = [Label.SAME if same else Label.DIFFERENT for same in truth.tolist()]
    return float(np.mean([one is other for one, other in zip(consensus, said, strict=True)]))
