"""What follows from the memory of a service."""

import pytest

from services.embedder.settings import EmbedderSettings
from services.feedback.settings import FeedbackSettings
from shared.decoding.pool import DecodePool
from shared.decoding.settings import DecodingSettings, quick_pixels
from shared.errors import PreconditionFailed
from tests.support.processes import NOWHERE

_STORE = {"s3_endpoint": NOWHERE, "s3_access_key": "key", "s3_secret_key": "secret"}


@pytest.mark.parametrize("memory_bytes", [2**28, 800 * 10**6])
def test_memory_that_is_too_small_for_the_largest_picture_ends_the_start(memory_bytes):
    settings = DecodingSettings(memory_bytes=memory_bytes)
    with pytest.raises(PreconditionFailed, match="MAGFACE_MEMORY_BYTES") as refused:
        DecodePool(settings)
    # What the message asks for is enough, and less is not.
    needed = int(str(refused.value).split("at least ")[1].split(":")[0])
    assert quick_pixels(DecodingSettings(memory_bytes=needed)) >= 4_000_000
    with pytest.raises(PreconditionFailed):
        quick_pixels(DecodingSettings(memory_bytes=needed - 100))
    smaller = settings.model_copy(update={"image_max_pixels": 500_000})
    if memory_bytes > 2**28:
        assert quick_pixels(smaller) >= 4_000_000


@pytest.mark.parametrize("memory_bytes", [10**9, 2**30, 2**32])
def test_the_budgets_and_the_pictures_that_are_decoded_take_no_more_than_the_memory(memory_bytes):
    embedder = EmbedderSettings(**_STORE, memory_bytes=memory_bytes)
    feedback = FeedbackSettings(
        **_STORE, database_url="postgresql://nowhere", memory_bytes=memory_bytes
    )
    budgets = embedder.upload_bytes + embedder.max_bytes + embedder.cache_bytes
    decoded = 7.5 * (embedder.image_max_pixels + quick_pixels(embedder))
    assert budgets + decoded + 200e6 <= memory_bytes
    assert feedback.upload_bytes == embedder.upload_bytes == memory_bytes // 8


def test_a_budget_that_is_set_does_not_follow_the_memory():
    assert EmbedderSettings(**_STORE, upload_bytes=2**21).upload_bytes == 2**21
