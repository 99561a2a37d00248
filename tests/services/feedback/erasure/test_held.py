"""A wrong clock or an empty database erases nothing: what a rule would take too much of is held."""

import ast
import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from prometheus_client import REGISTRY

from services.feedback.erasure.eraser import Eraser
from services.feedback.erasure.held import ErasureRule, HeldErasures
from services.feedback.erasure.retention import erase_expired, sweep_orphans
from services.feedback.server import open_erasure_backend, open_label_service, prepare_stores
from services.feedback.settings import FeedbackSettings
from shared.errors import InvalidInput, NotFound, PreconditionFailed, Unavailable
from shared.rpc.errors import domain_errors
from shared.storage.objects import ObjectStore, image_key
from shared.storage.postgres import Pool
from tests.services.feedback.support.helpers import Stored, stub_on, vaults
from tests.support.clocks import set_wrong_clock
from tests.support.waiting import wait_until

_HOUR, _NO_GRACE = timedelta(hours=1), timedelta(0)
_ROOT = Path(__file__).parents[4]


@dataclass
class Rules:
    pool: Pool
    eraser: Eraser
    held: HeldErasures


@pytest.fixture
async def rules(settings: FeedbackSettings, object_store: ObjectStore) -> AsyncIterator[Rules]:
    """The rules with the default share of 5 % a day."""
    await prepare_stores(settings, object_store)
    new_vault = vaults(settings, object_store)
    async with (
        open_label_service(settings, new_vault) as (_, pool),
        open_erasure_backend(settings, object_store, new_vault, pool) as backend,
    ):
        yield Rules(pool, backend.eraser, backend.held)


@pytest.fixture
def store_images(database_url: str, object_store: ObjectStore) -> Callable[..., list[str]]:
    """Store images of an age in days; returns their hashes."""

    def store(count: int, days: float, label: str = "image") -> list[str]:
        contents = [f"{label} {number} of {days} days".encode() for number in range(count)]
        hashes = [hashlib.sha256(content) for content in contents]
        for content, digest in zip(contents, hashes, strict=True):
            object_store.put(image_key(digest.hexdigest()), content)
        with psycopg.connect(database_url) as connection:
            connection.cursor().executemany(
                "INSERT INTO feedback.images (sha256, size_bytes, media_type, alignment, stored_at)"
                " VALUES (%s, 9, 'image/png', 'aligned', now() - %s * interval '1 day')",
                [(digest.digest(), days) for digest in hashes],
            )
            connection.execute(
                "UPDATE feedback.counters SET images = images + %s WHERE slot = 0", [count]
            )
        return [digest.hexdigest() for digest in hashes]

    return store


def _gauge(rule: ErasureRule) -> float | None:
    return REGISTRY.get_sample_value("magface_feedback_held_erasure_images", {"rule": rule.value})


async def test_a_service_whose_clock_is_wrong_erases_what_is_old_by_the_clock_of_postgres(
    settings: FeedbackSettings,
    object_store: ObjectStore,
    store_images: Callable[..., list[str]],
    stored: Callable[[], Stored],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await prepare_stores(settings, object_store)
    store_images(39, days=1)
    store_images(1, days=366, label="old")
    set_wrong_clock(monkeypatch, timedelta(days=400))
    changes = {
        "feedback_retention_days": 365,
        "feedback_sweep_every_s": 0.2,
        # Then only the clocks decide.
        "feedback_daily_erasure_share": 1.0,
    }
    async with stub_on(settings.model_copy(update=changes)):
        await asyncio.to_thread(wait_until, lambda: stored().objects < 40, 20)
        await asyncio.sleep(1)
    assert stored().images == stored().objects == 39


async def test_a_new_orphan_is_not_old_because_a_clock_is_wrong(
    rules: Rules, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    object_store.put(image_key("ab" * 32), b"uploaded, without a row yet")
    object_store.put("images/temporary", b"of the store")
    for ahead in (timedelta(days=400), timedelta(days=-400)):
        set_wrong_clock(monkeypatch, ahead)
        await sweep_orphans(object_store, rules.eraser, rules.held, _HOUR, _HOUR)
        assert len(list(object_store.list("images/"))) == 2
    await sweep_orphans(object_store, rules.eraser, rules.held, _NO_GRACE, _NO_GRACE)
    assert list(object_store.list("images/")) == []


async def test_an_erasure_beyond_the_share_waits_until_it_is_approved(
    rules: Rules,
    store_images: Callable[..., list[str]],
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    store_images(30, days=40)
    store_images(10, days=1)
    for _ in range(2):
        assert await erase_expired(30, rules.eraser, rules.held) == 0
    assert stored().images == stored().objects == 40
    (held,) = await rules.held.list()
    assert (held.rule, held.images, held.approved_by) == (ErasureRule.RETENTION, 30, None)
    assert _gauge(ErasureRule.RETENTION) == 30
    with pytest.raises(PreconditionFailed, match="30 images wait for approval now, not 40"):
        await rules.held.approve("retention", 40, "ann")
    with pytest.raises(NotFound, match="no erasure by 'orphans'"):
        await rules.held.approve("orphans", 30, "ann")
    assert await erase_expired(30, rules.eraser, rules.held) == 0
    # What becomes old later was not approved.
    await rules.held.approve("retention", 30, "ann")
    assert (await rules.held.approve("retention", 30, "ann")).approved_by == "ann"
    assert await erase_expired(0, rules.eraser, rules.held) == 30
    assert stored().images == stored().objects == 10
    assert await rules.held.list() == []
    with psycopg.connect(database_url) as connection:
        trail = connection.execute("SELECT actor, action, detail->>'images' FROM feedback.audit")
        assert trail.fetchall() == [("ann", "retention", "30")]
    assert await erase_expired(0, rules.eraser, rules.held) == 0
    assert stored().images == 10


async def test_the_share_is_of_a_day(
    rules: Rules,
    store_images: Callable[..., list[str]],
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    store_images(36, days=1)
    store_images(2, days=40, label="first")
    assert await erase_expired(30, rules.eraser, rules.held) == 2
    store_images(1, days=40, label="second")
    assert await erase_expired(30, rules.eraser, rules.held) == 0
    assert [held.images for held in await rules.held.list()] == [1]
    with psycopg.connect(database_url) as connection:
        connection.execute("UPDATE feedback.erasures SET asked_at = asked_at - interval '25 h'")
    assert await erase_expired(30, rules.eraser, rules.held) == 1
    assert await rules.held.list() == []
    assert _gauge(ErasureRule.RETENTION) == 0
    assert stored().images == 36


async def test_what_a_wrong_clock_of_postgres_held_is_held_no_more_once_it_is_right(
    rules: Rules, store_images: Callable[..., list[str]], stored: Callable[[], Stored]
) -> None:
    store_images(25, days=10)
    store_images(15, days=20)
    # As if it were 30 days later.
    assert await erase_expired(5, rules.eraser, rules.held) == 0
    await rules.held.approve("retention", 40, "ann")
    assert await erase_expired(15, rules.eraser, rules.held) == 0
    (held,) = await rules.held.list()
    assert (held.images, held.approved_by) == (15, None)
    assert await erase_expired(35, rules.eraser, rules.held) == 0
    assert await rules.held.list() == []
    assert stored().images == 40


async def test_an_empty_database_does_not_empty_the_bucket(
    rules: Rules, object_store: ObjectStore
) -> None:
    for number in range(101):
        object_store.put(image_key(hashlib.sha256(bytes([number])).hexdigest()), b"image")
    await sweep_orphans(object_store, rules.eraser, rules.held, _NO_GRACE, _NO_GRACE)
    assert sum(1 for _ in object_store.list("images/")) == 101
    (held,) = await rules.held.list()
    assert (held.rule, held.images, held.before) == (ErasureRule.ORPHANS, 101, None)
    object_store.put("images/one-more", b"image")
    await rules.held.approve("orphans", 101, "ann")
    await sweep_orphans(object_store, rules.eraser, rules.held, _NO_GRACE, _NO_GRACE)
    assert sum(1 for _ in object_store.list("images/")) == 102
    await rules.held.approve("orphans", 102, "ann")
    await sweep_orphans(object_store, rules.eraser, rules.held, _NO_GRACE, _NO_GRACE)
    assert list(object_store.list("images/")) == []
    assert await rules.held.list() == []


async def test_leftovers_of_a_crash_are_removed_up_to_a_number_a_day(
    rules: Rules, object_store: ObjectStore
) -> None:
    def leave(first: int, count: int) -> None:
        for number in range(first, first + count):
            object_store.put(image_key(hashlib.sha256(bytes([number])).hexdigest()), b"image")

    leave(0, 60)
    await sweep_orphans(object_store, rules.eraser, rules.held, _NO_GRACE, _NO_GRACE)
    assert list(object_store.list("images/")) == []
    leave(60, 60)
    await sweep_orphans(object_store, rules.eraser, rules.held, _NO_GRACE, _NO_GRACE)
    assert sum(1 for _ in object_store.list("images/")) == 60


async def test_no_row_is_erased_by_a_rule_while_the_store_does_not_answer(
    rules: Rules,
    settings: FeedbackSettings,
    store_images: Callable[..., list[str]],
    stored: Callable[[], Stored],
) -> None:
    store_images(1, days=40)
    lost = ObjectStore(
        settings.model_copy(update={"s3_endpoint": "127.0.0.1:9", "s3_timeout_s": 0.2})
    )
    async with open_erasure_backend(settings, lost, vaults(settings, lost), rules.pool) as backend:
        with pytest.raises(Unavailable):
            await erase_expired(30, backend.eraser, backend.held)
    assert stored().images == stored().objects == 1


async def test_the_contract_lists_and_approves_what_is_held(
    rules: Rules, settings: FeedbackSettings, store_images: Callable[..., list[str]]
) -> None:
    store_images(3, days=40)
    await erase_expired(30, rules.eraser, rules.held)
    async with stub_on(settings) as stub:
        (held,) = (await stub.ListHeldErasures(pb.ListHeldErasuresRequest())).erasures
        assert (held.rule, held.images, held.approved_by) == ("retention", 3, "")
        assert held.HasField("stored_before")
        approval = pb.ApproveHeldErasureRequest(rule="retention", images=3, requested_by="ann")
        for _ in range(2):
            assert (await stub.ApproveHeldErasure(approval)).erasure.approved_by == "ann"
        for wrong, error in (
            ({"images": 2}, PreconditionFailed),
            ({"rule": "other"}, NotFound),
            ({"requested_by": ""}, InvalidInput),
        ):
            fields = {"rule": "retention", "images": 3, "requested_by": "ann"} | wrong
            with pytest.raises(error), domain_errors():
                await stub.ApproveHeldErasure(pb.ApproveHeldErasureRequest(**fields))


# Where the clock of a process is read: to show or to record a time, never to decide on an age.
_CLOCK_READERS = {
    "services/embedder/models/resident.py",
    "services/trainer/worker/quantizer.py",
    "shared/evaluation/report/page.py",
    "shared/model/export.py",
    "shared/registry/erasure_mark.py",
    # Whether a token has expired; it holds a time of the issuer's clock.
    "shared/rpc/access/tokens.py",
}


def test_nothing_else_reads_the_clock_of_a_process() -> None:
    clock = re.compile(r"(datetime|date)\.(now|utcnow|today)|time\.(time|time_ns|localtime|gmtime)")
    readers = {
        str(path.relative_to(_ROOT))
        for part in ("services", "shared")
        for path in (_ROOT / part).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and clock.fullmatch(ast.unparse(node))
    }
    assert readers == _CLOCK_READERS
