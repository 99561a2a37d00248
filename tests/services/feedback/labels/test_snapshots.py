"""Tests of snapshots: later labels do not change them."""

import asyncio
from itertools import count

import psycopg

from services.feedback.labels.consensus_view import apply_rule
from services.feedback.labels.service import LabelService
from services.feedback.labels.types import ExportedPair, Label
from services.feedback.server import open_label_service
from services.feedback.settings import FeedbackSettings
from shared.storage.objects import ObjectStore
from shared.storage.postgres import open_pool
from tests.services.feedback.support.bulk_rows import fill
from tests.services.feedback.support.helpers import feedback, sha256, vaults
from tests.support.postgres import blocked_sessions
from tests.support.waiting import until


async def _export(store: LabelService, snapshot_id: str = "") -> tuple[str, list[ExportedPair]]:
    parts = [part async for part in store.export(snapshot_id)]
    assert len({name for name, _ in parts}) == 1
    return parts[0][0], [pair for _, pairs in parts for pair in pairs]


async def _label(store: LabelService, b: int, annotator: str, label: Label) -> None:
    await store.submit(
        feedback(image_a=sha256(1), image_b=sha256(b), annotator=annotator, label=label)
    )


async def test_a_snapshot_stays_while_labels_are_added_and_superseded(
    store: LabelService,
) -> None:
    await store.submit(feedback(1, 2, label=Label.SAME))
    await store.submit(feedback(1, 3, label=Label.DIFFERENT))
    snapshot_id, before = await _export(store)
    assert [(pair.label, pair.votes) for pair in before] == [
        (Label.SAME, {"ann": Label.SAME}),
        (Label.DIFFERENT, {"ann": Label.DIFFERENT}),
    ]

    await _label(store, 2, "ann", Label.DIFFERENT)
    await _label(store, 3, "bob", Label.SAME)
    await store.submit(feedback(1, 4))

    assert await _export(store, snapshot_id) == (snapshot_id, before)
    later_id, later = await _export(store)
    assert later_id != snapshot_id
    assert [pair.label for pair in later] == [Label.DIFFERENT, Label.SAME]


async def test_undecided_and_unsure_pairs_are_left_out(store: LabelService) -> None:
    await store.submit(feedback(1, 2, label=Label.UNSURE))
    await store.submit(feedback(1, 3, label=Label.SAME))
    await _label(store, 3, "bob", Label.DIFFERENT)
    await store.submit(feedback(1, 4, label=Label.SAME))
    _, pairs = await _export(store)
    assert [pair.image_a == sha256(4) or pair.image_b == sha256(4) for pair in pairs] == [True]


async def test_snapshots_taken_under_load_reproduce(store: LabelService) -> None:
    await store.submit(feedback(1, 2))
    await asyncio.gather(*[store.submit(feedback(1, n)) for n in range(3, 12)])
    stop = asyncio.Event()

    async def keep_labelling(annotator: str) -> int:
        for number in count():
            if stop.is_set():
                return number
            label = (Label.SAME, Label.DIFFERENT)[number % 2]
            await _label(store, 2 + number % 10, annotator, label)
        raise AssertionError

    writers = [asyncio.create_task(keep_labelling(f"ann-{n}")) for n in range(8)]
    taken = []
    for _ in range(10):
        taken.append(await _export(store))
        await asyncio.sleep(0.02)
    stop.set()
    assert sum(await asyncio.gather(*writers)) > 50
    for snapshot_id, pairs in taken:
        assert (await _export(store, snapshot_id))[1] == pairs
    assert len({str(pairs) for _, pairs in taken}) > 1


async def test_a_snapshot_waits_for_labels_on_their_way(
    store: LabelService, database_url: str
) -> None:
    """A label with a smaller id than the newest must not appear in it later."""
    await store.submit(feedback(1, 2))
    slow = await psycopg.AsyncConnection.connect(database_url)
    await slow.execute(
        "INSERT INTO feedback.labels (pair_id, annotator, label, idempotency_key)"
        " VALUES (1, 'slow', 'same', 'slow')"
    )
    await store.submit(feedback(1, 3))
    exporting = asyncio.create_task(_export(store))
    await until(lambda: blocked_sessions(database_url) == 1)
    assert not exporting.done()
    await slow.commit()
    await slow.close()
    snapshot_id, pairs = await exporting
    assert pairs[0].votes == {"ann": Label.SAME, "slow": Label.SAME}
    assert await _export(store, snapshot_id) == (snapshot_id, pairs)


async def test_an_export_of_many_pages_misses_and_repeats_nothing(
    store: LabelService, database_url: str
) -> None:
    fill(database_url, images=300, pairs=1_700, labels=2_900)
    parts = [part async for part in store.export("")]
    pairs = [(pair.image_a, pair.image_b) for _, part in parts for pair in part]
    stats = await store.stats()
    assert len(pairs) == len(set(pairs)) == stats.pairs_same + stats.pairs_different
    assert stats.pairs_undecided > 100
    assert all(0 < len(part) <= 500 for _, part in parts)


async def test_pairs_that_nobody_labelled_yet_do_not_end_an_export(
    store: LabelService, database_url: str
) -> None:
    fill(database_url, images=300, pairs=1_200, labels=1_100)
    with psycopg.connect(database_url) as connection:
        connection.execute("SET feedback.erasing = 'on'")
        connection.execute("DELETE FROM feedback.labels WHERE pair_id BETWEEN 100 AND 1000")
    _, pairs = await _export(store)
    assert len(pairs) == 99 + 100


async def test_a_changed_rule_derives_anew_and_leaves_old_snapshots_alone(
    store: LabelService, settings: FeedbackSettings, object_store: ObjectStore
) -> None:
    await store.submit(feedback(1, 2))
    await store.submit(feedback(1, 3))
    await _label(store, 3, "bob", Label.SAME)
    snapshot_id, before = await _export(store)
    assert len(before) == 2

    stricter = settings.model_copy(update={"feedback_minimum_votes": 2})
    async with open_label_service(stricter, vaults(stricter, object_store)) as (changed, pool):
        await apply_rule(pool, 2)
        stats = await changed.stats()
        assert (stats.pairs_same, stats.pairs_undecided, stats.labels) == (1, 1, 3)
        (pair,), _ = await changed.list_pairs(Label.SAME, 0, "")
        assert pair.votes_same == 2
        assert len((await _export(changed))[1]) == 1
        assert await _export(changed, snapshot_id) == (snapshot_id, before)

        await apply_rule(pool, 1)
        assert (await changed.stats()).pairs_same == 2


async def test_deriving_anew_gives_what_was_kept_up_to_date(
    store: LabelService, settings: FeedbackSettings, database_url: str
) -> None:
    labels = list(Label)
    for number in range(60):
        label = labels[(number * 7 + number // 5) % 3]
        await store.submit(feedback(1, 2 + number % 6, annotator=f"a-{number % 4}", label=label))
    kept = "SELECT * FROM feedback.pair_consensus ORDER BY pair_id"
    with psycopg.connect(database_url) as connection:
        before, stats = connection.execute(kept).fetchall(), await store.stats()
        connection.execute("DELETE FROM feedback.pair_consensus")
        connection.execute(
            "UPDATE feedback.counters SET pairs_same = 0, pairs_different = 0, pairs_undecided = 0"
        )
    pool = await open_pool(settings)
    await apply_rule(pool, settings.feedback_minimum_votes)
    await pool.close()
    with psycopg.connect(database_url) as connection:
        assert connection.execute(kept).fetchall() == before
    assert await store.stats() == stats
