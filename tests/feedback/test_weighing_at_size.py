"""Weighing annotators at a million labels over a hundred thousand images."""

import asyncio

import psutil
import psycopg
import pytest

from services.feedback.settings import FeedbackSettings
from shared.storage.objects import ObjectStore
from tests.feedback.electorate import electorate
from tests.feedback.filling import fill

_LABELS = 1_000_000
_MEMORY_BAR_MIB = 256
# Another's label must not wait for the weights, nor for what follows from them.
_STALL_BAR_S = 1.0


@pytest.mark.slow
async def test_a_million_labels_are_weighed_in_bounded_memory_while_others_are_served(
    settings: FeedbackSettings, object_store: ObjectStore, database_url: str
) -> None:
    patient = settings.model_copy(update={"database_timeout_s": 30.0})
    async with electorate(patient, object_store) as people:
        fill(database_url, images=_LABELS // 10, pairs=_LABELS // 2, labels=_LABELS)
        process, loop = psutil.Process(), asyncio.get_running_loop()
        before = process.memory_info().rss
        highest, longest = before, 0.0

        async def watch() -> None:
            nonlocal highest, longest
            while True:
                asked = loop.time()
                await asyncio.sleep(0.02)
                longest = max(longest, loop.time() - asked)
                highest = max(highest, process.memory_info().rss)

        watching = asyncio.create_task(watch())
        await people.weigher.round()
        watching.cancel()
        with psycopg.connect(database_url) as connection:
            row = connection.execute("SELECT votes, pairs FROM feedback.weightings").fetchone()
            followed = connection.execute(
                "SELECT weighting_id FROM feedback.consensus_rule"
            ).fetchone()
    assert row is not None
    assert row[0] > 0.9 * _LABELS
    assert followed == (1,)
    assert (highest - before) / 2**20 < _MEMORY_BAR_MIB
    assert longest < _STALL_BAR_S
