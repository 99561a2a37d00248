"""Tests of the sweep of orphans and of the erasure of old images, beside uploads."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from services.feedback.erasure.eraser import Eraser
from services.feedback.erasure.held import HeldErasures
from services.feedback.erasure.retention import sweep_orphans
from services.feedback.labels.label_log import LabelLog
from services.feedback.labels.service import LabelService
from services.feedback.labels.types import Label, Submission
from services.feedback.server import open_erasure_backend, open_label_service, prepare_stores
from services.feedback.settings import FeedbackSettings
from shared.errors import Conflict, Unavailable
from shared.model.image.face import FaceImage
from shared.storage.objects import ObjectStore, image_key
from shared.storage.postgres import Pool
from tests.services.feedback.support.helpers import (
    Stored,
    feedback,
    picture,
    sha256,
    stub_on,
    vaults,
)
from tests.support.postgres import blocked_sessions
from tests.support.waiting import until, wait_until

_NO_GRACE, _HOUR = timedelta(0), timedelta(hours=1)


@dataclass
class Domain:
    labels: LabelService
    pool: Pool
    eraser: Eraser
    held: HeldErasures


@pytest.fixture
async def domain(settings: FeedbackSettings, object_store: ObjectStore) -> AsyncIterator[Domain]:
    await prepare_stores(settings, object_store)
    async with (
        open_label_service(settings, vaults(settings, object_store)) as (labels, pool),
        open_erasure_backend(
            settings, object_store, vaults(settings, object_store), pool
        ) as erasure,
    ):
        yield Domain(labels, pool, erasure.eraser, erasure.held)


async def test_an_orphan_is_removed_after_its_grace_and_nothing_else_is(
    domain: Domain, object_store: ObjectStore
) -> None:
    await domain.labels.submit(feedback(1, 2))
    object_store.put(image_key(sha256(3)), picture(3))
    foreign = ("images/readme", f"images/00/00/{sha256(3)}", "models/v/model.onnx")
    for key in foreign:
        object_store.put(key, b"not ours to remove")
    await sweep_orphans(object_store, domain.eraser, domain.held, _HOUR, _HOUR)
    assert object_store.exists(image_key(sha256(3)))
    await sweep_orphans(object_store, domain.eraser, domain.held, _NO_GRACE, _HOUR)
    left = {found.key for found in object_store.list()}
    assert left >= {image_key(sha256(1)), image_key(sha256(2)), *foreign}
    assert image_key(sha256(3)) not in left
    await sweep_orphans(object_store, domain.eraser, domain.held, _NO_GRACE, _NO_GRACE)
    left = {found.key for found in object_store.list()}
    assert left == {image_key(sha256(1)), image_key(sha256(2)), "models/v/model.onnx"}
    await domain.labels.submit(feedback(1, 3))
    assert object_store.get(image_key(sha256(3))) == picture(3)


async def test_the_sweep_spares_an_object_whose_row_is_about_to_be_committed(
    domain: Domain, object_store: ObjectStore, stored: Callable[[], Stored], database_url: str
) -> None:
    await domain.labels.submit(feedback(1, 2))
    with psycopg.connect(database_url) as blocker:
        # The label has written its objects and waits for this lock, before its rows are visible.
        blocker.execute("LOCK TABLE feedback.images IN SHARE MODE")
        label = asyncio.create_task(domain.labels.submit(feedback(3, 4)))
        await asyncio.to_thread(wait_until, lambda: stored().objects == 4, 5)
        sweeping = asyncio.create_task(
            sweep_orphans(object_store, domain.eraser, domain.held, _NO_GRACE, _HOUR)
        )
        await until(lambda: blocked_sessions(database_url) == 2)
        assert not sweeping.done()
    receipt = await label
    await sweeping
    assert receipt.created
    assert stored().images == stored().objects == 4


async def test_a_label_whose_object_was_swept_before_its_row_is_stored_anew(
    domain: Domain,
    settings: FeedbackSettings,
    object_store: ObjectStore,
    stored: Callable[[], Stored],
) -> None:
    await domain.labels.submit(feedback(1, 2))
    with vaults(settings, object_store)() as vault:
        image = await vault.check(FaceImage(picture(3)), "image_b")
        late = Submission(sha256(1), sha256(3), Label.SAME, "ann", "late", images=(image.facts,))
        log = LabelLog(domain.pool, 1)
        _, epoch = await log.read_existing(late, in_turn=False)
        await vault.put(image)
    await sweep_orphans(object_store, domain.eraser, domain.held, _NO_GRACE, _HOUR)
    (outcome,) = await log.append([replace(late, epoch=epoch)])
    assert isinstance(outcome, Conflict)
    assert stored().images == stored().objects == 2


def _store_old(database_url: str, object_store: ObjectStore, number: int, days: float) -> None:
    stored_at = datetime.now(UTC) - timedelta(days=days)
    data = f"an old picture {number}".encode()
    digest = hashlib.sha256(data)
    object_store.put(image_key(digest.hexdigest()), data)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.images (sha256, size_bytes, media_type, alignment, stored_at)"
            " VALUES (%s, %s, 'image/png', 'aligned', %s)",
            [digest.digest(), len(data), stored_at],
        )
        connection.execute("UPDATE feedback.counters SET images = images + 1 WHERE slot = 0")


async def test_images_beyond_the_retention_are_erased_with_their_labels_and_leave_a_trail(
    domain: Domain, object_store: ObjectStore, stored: Callable[[], Stored], database_url: str
) -> None:
    await domain.labels.submit(feedback(1, 2))
    for number in range(40):
        _store_old(database_url, object_store, number, days=31)
    _store_old(database_url, object_store, 40, days=29)
    old = hashlib.sha256(b"an old picture 0").hexdigest()
    await domain.labels.submit(feedback(image_a=old, image_b=sha256(1)))
    erased = await domain.eraser.erase_older(datetime.now(UTC) - timedelta(days=30))
    assert erased == 40
    counts = stored()
    assert (counts.images, counts.labels, counts.objects) == (3, 1, 3)
    assert (await domain.labels.stats()).images == 3
    with psycopg.connect(database_url) as connection:
        trail = connection.execute("SELECT actor, action, detail->>'images' FROM feedback.audit")
        assert trail.fetchall() == [("system", "retention", "40")]


async def test_a_running_service_sweeps_and_applies_its_retention_by_itself(
    settings: FeedbackSettings,
    domain: Domain,
    object_store: ObjectStore,
    stored: Callable[[], Stored],
    database_url: str,
) -> None:
    await domain.labels.submit(feedback(1, 2))
    _store_old(database_url, object_store, 1, days=8)
    object_store.put(image_key(sha256(3)), picture(3))
    changes = {
        "feedback_retention_days": 7,
        "feedback_orphan_grace_s": 0.0,
        "feedback_sweep_every_s": 0.2,
    }
    async with stub_on(settings.model_copy(update=changes)):
        await asyncio.to_thread(wait_until, lambda: stored().images == stored().objects == 2, 10)


async def test_uploads_of_an_image_that_is_being_removed_wait_and_name_it(
    domain: Domain, stored: Callable[[], Stored], database_url: str
) -> None:
    await domain.labels.submit(feedback(1, 2))
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.removals (sha256, request_id) VALUES (%s, '')",
            [bytes.fromhex(sha256(3))],
        )
    with pytest.raises(Unavailable, match=f"{sha256(3)} is being removed"):
        await domain.labels.submit(feedback(1, 3))
    assert stored().objects == 2
    await domain.eraser.finish()
    await domain.labels.submit(feedback(1, 3))
