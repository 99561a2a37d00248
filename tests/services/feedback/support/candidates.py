"""Inserts images and candidates directly, for tests of leases."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import psycopg

from services.feedback.selection.pair_leases import LeasePolicy, PairLeaser
from services.feedback.server import MIGRATIONS, SCHEMA
from services.feedback.settings import FeedbackSettings
from shared.storage.migrations import apply_migrations
from shared.storage.postgres import open_pool

_IMAGES = (
    "INSERT INTO feedback.images (sha256, size_bytes, media_type, alignment)"
    " SELECT sha256(n::text::bytea), 1, 'image/png', 'aligned' FROM generate_series(1, %s) AS n"
)
_PAIRS = (
    "INSERT INTO feedback.candidates (image_a, image_b, strategy, score, wanted, truth)"
    " SELECT least(a, b), greatest(a, b), %(strategy)s::feedback.strategy, n, %(wanted)s,"
    "        CASE WHEN %(strategy)s = 'gold' THEN 'same'::feedback.label END"
    " FROM (SELECT n, sha256((%(first)s + 2 * n)::text::bytea) AS a,"
    "              sha256((%(first)s + 2 * n + 1)::text::bytea) AS b"
    "       FROM generate_series(0, %(count)s - 1) AS n) AS made"
)
_LABEL = (
    "WITH pair AS (INSERT INTO feedback.pairs (image_a, image_b) VALUES (%(a)s, %(b)s)"
    " ON CONFLICT (image_a, image_b) DO UPDATE SET image_a = excluded.image_a"
    " RETURNING pair_id)"
    " INSERT INTO feedback.labels (pair_id, annotator, label, idempotency_key)"
    " SELECT pair_id, %(annotator)s, %(label)s::feedback.label, gen_random_uuid()::text FROM pair"
)


def prepare_images(database_url: str, images: int) -> None:
    apply_migrations(database_url, SCHEMA, MIGRATIONS)
    with psycopg.connect(database_url) as connection:
        connection.execute(_IMAGES.encode(), [images])


def prepare_pairs(
    database_url: str, count: int, *, strategy: str = "hard", wanted: int = 1, first: int = 1
) -> None:
    """Insert candidates of disjoint pairs of the images numbered from `first`."""
    values = {"count": count, "strategy": strategy, "wanted": wanted, "first": first}
    with psycopg.connect(database_url) as connection:
        connection.execute(_PAIRS.encode(), values)


def label(database_url: str, pair: tuple[str, str], annotator: str, what: str = "same") -> None:
    """Insert a label, without the derived rows and counters."""
    values = {
        "a": bytes.fromhex(pair[0]),
        "b": bytes.fromhex(pair[1]),
        "annotator": annotator,
        "label": what,
    }
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE feedback.pairs DISABLE TRIGGER facts_stay")
        connection.execute(_LABEL.encode(), values)
        connection.execute("ALTER TABLE feedback.pairs ENABLE TRIGGER facts_stay")


@asynccontextmanager
async def open_leaser(
    settings: FeedbackSettings, short: asyncio.Event | None = None, **changes: Any
) -> AsyncIterator[PairLeaser]:
    """A leaser with connections of its own, as another process would have."""
    sharing: dict[str, Any] = {
        "lease_s": 900.0,
        "random_share": 0.0,
        "gold_share": 0.0,
        "has_embedder": True,
    }
    pool = await open_pool(settings)
    try:
        yield PairLeaser(
            pool,
            LeasePolicy(**(sharing | changes)),
            (short or asyncio.Event()).set,
            np.random.default_rng(0),
        )
    finally:
        await pool.close()
