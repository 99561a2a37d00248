"""An erasure is finished when no job of the trainer has copies of the image any more."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from services.feedback.erasure.eraser import Eraser
from services.feedback.labels.service import LabelService
from services.feedback.server import open_erasure_backend, open_label_service, prepare_stores
from services.feedback.settings import FeedbackSettings
from shared.errors import NotFound, Unavailable
from shared.registry.erasure_mark import read_erasure_generation
from shared.registry.evaluation_pages import page_key
from shared.registry.image_copies import announce_copies, withdraw_copies
from shared.storage.objects import ObjectStore, image_key
from tests.services.feedback.support.helpers import feedback, sha256, vaults
from tests.shared.registry.pages import write_page


@pytest.fixture
async def labels(
    settings: FeedbackSettings, object_store: ObjectStore
) -> AsyncIterator[LabelService]:
    await prepare_stores(settings, object_store)
    async with open_label_service(settings, vaults(settings, object_store)) as (labels, _):
        yield labels


@pytest.fixture
async def eraser(
    labels: LabelService, settings: FeedbackSettings, object_store: ObjectStore
) -> AsyncIterator[Eraser]:
    assert labels
    async with _eraser(settings, object_store) as eraser:
        yield eraser


@asynccontextmanager
async def _eraser(settings: FeedbackSettings, objects: ObjectStore) -> AsyncIterator[Eraser]:
    """An eraser with a pool of its own, as of another process."""
    new_vault = vaults(settings, objects)
    async with (
        open_label_service(settings, new_vault) as (_, pool),
        open_erasure_backend(settings, objects, new_vault, pool) as backend,
    ):
        yield backend.eraser


async def _snapshot(labels: LabelService) -> str:
    return (await anext(labels.export("")))[0]


async def _finished(eraser: Eraser) -> bool:
    await eraser.finish()
    return (await eraser.find("ticket")).finished_at is not None


async def test_an_erasure_waits_for_the_job_that_has_the_image_and_clears_what_it_left(
    settings: FeedbackSettings,
    labels: LabelService,
    eraser: Eraser,
    object_store: ObjectStore,
    tmp_path: Path,
) -> None:
    await labels.submit(feedback(1, 2))
    announce_copies(object_store, "job-with-her", await _snapshot(labels))
    mark = read_erasure_generation(object_store)
    with pytest.raises(Unavailable, match=r"copies are left .* job-with-her") as waits:
        await eraser.erase_image(sha256(1), "dpo", "ticket")
    assert "ticket" in str(waits.value)
    # What is stored is erased all the same.
    assert not object_store.exists(image_key(sha256(1)))
    with pytest.raises(NotFound):
        await labels.get_image(sha256(1))
    assert not await _finished(eraser)
    # A job that began later cannot have the image.
    announce_copies(object_store, "job-began-later", None)
    # The job ends: it stores what it made, and removes its folder.
    page = page_key(uuid4())
    object_store.put_file(page, write_page(tmp_path / "page.html", [sha256(1), sha256(2)]))
    assert not await _finished(eraser)
    withdraw_copies(object_store, "job-with-her")
    async with _eraser(settings, object_store) as another_process:
        assert await _finished(another_process)
    assert sha256(1).encode() not in object_store.get(page)
    assert read_erasure_generation(object_store) != mark
    erasure = await eraser.erase_image(sha256(1), "dpo", "ticket")
    assert (erasure.images, erasure.labels) == (1, 1)


async def test_jobs_that_cannot_have_the_image_do_not_delay_its_erasure(
    labels: LabelService, eraser: Eraser, object_store: ObjectStore
) -> None:
    await labels.submit(feedback(2, 3))
    announce_copies(object_store, "job-without-her", await _snapshot(labels))
    await labels.submit(feedback(1, 2))
    erasure = await eraser.erase_image(sha256(1), "dpo", "ticket")
    assert erasure.finished_at is not None


async def test_a_job_that_has_not_said_what_it_has_may_have_the_image(
    labels: LabelService, eraser: Eraser, object_store: ObjectStore
) -> None:
    await labels.submit(feedback(2, 3))
    other = await _snapshot(labels)
    await labels.submit(feedback(1, 2))
    announce_copies(object_store, "early", None)
    object_store.put("copies/odd", b"{")
    with pytest.raises(Unavailable, match="early, odd"):
        await eraser.erase_image(sha256(1), "dpo", "ticket")
    announce_copies(object_store, "early", other)
    assert not await _finished(eraser)
    withdraw_copies(object_store, "odd")
    assert await _finished(eraser)
