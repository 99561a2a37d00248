"""Tests of pair leases."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from services.feedback.selection.annotator_stats import AnnotatorStats
from services.feedback.selection.pair_leases import LeasedPairs, PairLeaser
from services.feedback.selection.strategies import Strategy
from services.feedback.settings import FeedbackSettings
from shared.errors import InvalidInput, PreconditionFailed
from shared.storage.postgres import open_pool
from tests.services.feedback.support.candidates import (
    label,
    open_leaser,
    prepare_images,
    prepare_pairs,
)

Pair = tuple[str, str]


def pairs_of(leased: LeasedPairs) -> list[Pair]:
    return [(lease.image_a, lease.image_b) for lease in leased.leases]


async def take_all(leaser: PairLeaser, annotator: str, count: int) -> list[Pair]:
    """Lease pairs until no new ones are left."""
    taken: list[Pair] = []
    while True:
        wanted = len(taken) + count
        held = pairs_of(await leaser.next_pairs(annotator, min(wanted, 100), None))
        assert set(taken) <= set(held), "a pair that was handed out is not given back"
        if len(held) == len(taken):
            return held
        taken = held


def run_out(database_url: str) -> None:
    """Expire every running lease."""
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "UPDATE feedback.leases SET expires_at = now() - interval '1 second'"
            " WHERE answered IS NULL"
        )


@hypothesis_settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(overlap=st.integers(1, 3), people=st.integers(2, 6), count=st.integers(1, 9))
async def test_of_many_who_ask_at_once_no_more_get_a_pair_than_are_to_be_asked(
    settings: FeedbackSettings, database_url: str, overlap: int, people: int, count: int
) -> None:
    pairs = 30
    with psycopg.connect(database_url) as connection:
        connection.execute("DROP SCHEMA IF EXISTS feedback CASCADE")
    prepare_images(database_url, 100)
    prepare_pairs(database_url, pairs, wanted=overlap)
    async with AsyncExitStack() as stack:
        leasers = [await stack.enter_async_context(open_leaser(settings)) for _ in range(2)]
        taken = await asyncio.gather(
            *[take_all(leasers[n % 2], f"ann-{n}", count) for n in range(people)]
        )
        # A pair that was locked by a concurrent call is skipped, and left over.
        for n in range(people):
            taken[n] = await take_all(leasers[n % 2], f"ann-{n}", count)
    for own in taken:
        assert len(set(own)) == len(own), "the same pair twice to one annotator"
    times = Counter(pair for own in taken for pair in own)
    assert len(times) == pairs
    assert set(times.values()) == {min(overlap, people)}


async def test_who_asks_again_gets_the_pairs_that_they_hold_and_have_not_labelled(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 100)
    prepare_pairs(database_url, 40)
    async with open_leaser(settings) as leaser:
        first = await leaser.next_pairs("ann", 4, None, "key")
        for key, strategy in (("other", None), (None, Strategy.RANDOM)):
            again = await leaser.next_pairs("ann", 4, strategy, key)
            assert {one.lease_id for one in again.leases} == {one.lease_id for one in first.leases}
            assert min(one.expires_at for one in again.leases) > first.leases[0].expires_at
            assert "fewer" not in again.note
        done, *held = pairs_of(first)
        label(database_url, done, "ann")
        more = pairs_of(await leaser.next_pairs("ann", 6, None))
        assert set(more[:3]) == set(held)
        assert len(set(more)) == 6
        assert done not in more
        assert not set(more) & set(pairs_of(await leaser.next_pairs("bob", 6, None)))
        fewer = pairs_of(await leaser.next_pairs("ann", 2, None))
        assert set(fewer) < set(more)


async def test_a_held_pair_is_not_handed_out_again_once_an_image_is_left_out_of_the_pool(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 10)
    prepare_pairs(database_url, 3)
    async with open_leaser(settings) as leaser:
        held = (await leaser.next_pairs("ann", 3, None)).leases
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "INSERT INTO feedback.unembeddable VALUES (%s, 'one', 'shows no face')",
                [bytes.fromhex(held[1].image_b)],
            )
        again = (await leaser.next_pairs("ann", 3, None)).leases
    assert {lease.lease_id for lease in again} == {held[0].lease_id, held[2].lease_id}


async def test_one_annotator_asking_often_at_once_gets_one_set_of_pairs(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 100)
    prepare_pairs(database_url, 40, wanted=5)
    async with open_leaser(settings) as leaser:
        taken = await asyncio.gather(*[leaser.next_pairs("ann", 5, None) for _ in range(8)])
    sets = {frozenset(pairs_of(leased)) for leased in taken}
    assert [len(pairs) for pairs in sets] == [5]


async def test_the_note_says_until_when_others_hold_the_missing_pairs(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 100)
    prepare_pairs(database_url, 5)
    async with open_leaser(settings) as leaser:
        held = await leaser.next_pairs("ann", 3, None)
        label(database_url, pairs_of(held)[0], "ann")
        leased = await leaser.next_pairs("bob", 5, None, "key")
        assert len(leased.leases) == 2
        assert leased.held_until == min(one.expires_at for one in held.leases)
        until = f"{leased.held_until:%Y-%m-%d %H:%M}"
        assert (
            "3 fewer than requested: other annotators hold 2 more, the first until" in leased.note
        )
        assert until in leased.note
        assert await leaser.next_pairs("bob", 5, None, "key") == leased
        # Nobody else holds what their own missing pairs would be.
        for pair in pairs_of(held)[1:]:
            label(database_url, pair, "ann")
        alone = await leaser.next_pairs("bob", 5, None)
        assert alone.held_until is None
        assert "being prepared" in alone.note


async def test_an_expired_lease_comes_back_and_an_answered_one_does_not(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 20)
    prepare_pairs(database_url, 2)
    async with open_leaser(settings) as leaser:
        first, second = pairs_of(await leaser.next_pairs("ann", 2, None))
        assert not (await leaser.next_pairs("bob", 2, None)).leases
        label(database_url, first, "ann")
        run_out(database_url)
        assert pairs_of(await leaser.next_pairs("bob", 2, None)) == [second]
        run_out(database_url)
        assert pairs_of(await leaser.next_pairs("ann", 2, None)) == [second]


async def test_of_two_holders_only_the_silent_one_is_replaced(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 20)
    prepare_pairs(database_url, 1, wanted=2)
    async with open_leaser(settings) as leaser:
        (pair,) = pairs_of(await leaser.next_pairs("ann", 1, None))
        assert pairs_of(await leaser.next_pairs("bob", 1, None)) == [pair]
        label(database_url, pair, "bob")
        run_out(database_url)
        assert pairs_of(await leaser.next_pairs("eve", 1, None)) == [pair]
        assert not (await leaser.next_pairs("joe", 1, None)).leases


async def test_who_has_labelled_a_pair_unasked_is_not_handed_it(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 20)
    prepare_pairs(database_url, 1)
    async with open_leaser(settings) as leaser:
        with psycopg.connect(database_url) as connection:
            row = connection.execute("SELECT image_a, image_b FROM feedback.candidates").fetchone()
        assert row is not None
        label(database_url, (row[0].hex(), row[1].hex()), "ann")
        assert not (await leaser.next_pairs("ann", 1, None)).leases
        assert (await leaser.next_pairs("bob", 1, None)).leases


async def test_known_pairs_are_mixed_in_and_measure_who_answers(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 200)
    prepare_pairs(database_url, 40, first=1)
    prepare_pairs(database_url, 20, strategy="gold", wanted=1_000_000, first=101)
    async with open_leaser(settings, gold_share=0.5) as leaser:
        ann = pairs_of(await leaser.next_pairs("ann", 20, None))
        bob = pairs_of(await leaser.next_pairs("bob", 20, None))
        gold = set(ann) & set(bob)
        assert gold, "only known pairs go to both"
        for pair in ann:
            label(database_url, pair, "ann", "same")
        for pair in bob:
            label(database_url, pair, "bob", "different")
    pool = await open_pool(settings)
    records = {one.annotator: one for one in await AnnotatorStats(pool).list_records()}
    await pool.close()
    assert 3 <= records["ann"].gold_answers <= 17
    assert records["ann"].gold_right == records["ann"].gold_answers
    assert records["bob"].gold_right == 0 < records["bob"].gold_answers


async def test_a_share_is_random_whatever_is_asked_for(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 400)
    prepare_pairs(database_url, 80, first=1)
    prepare_pairs(database_url, 80, strategy="random", first=201)
    async with open_leaser(settings, random_share=0.25) as leaser:
        await leaser.next_pairs("ann", 80, Strategy.HARD)
    with psycopg.connect(database_url) as connection:
        rows = connection.execute("SELECT strategy, count(*) FROM feedback.leases GROUP BY 1")
        counts = dict(rows.fetchall())
    assert 8 <= counts["random"] <= 35
    assert counts["random"] + counts["hard"] == 80


async def test_the_note_says_what_is_missing(settings: FeedbackSettings, database_url: str) -> None:
    prepare_images(database_url, 20)
    prepare_pairs(database_url, 3, strategy="random")
    short = asyncio.Event()
    async with open_leaser(settings, short, has_embedder=False) as leaser:
        leased = await leaser.next_pairs("ann", 5, Strategy.HARD)
    assert len(leased.leases) == 3
    assert "MAGFACE_EMBEDDER_ADDRESS" in leased.note
    assert "2 fewer" in leased.note
    assert short.is_set()


async def test_a_pool_of_one_image_has_no_pairs(
    settings: FeedbackSettings, database_url: str
) -> None:
    prepare_images(database_url, 1)
    async with open_leaser(settings) as leaser:
        with pytest.raises(PreconditionFailed, match="import images"):
            await leaser.next_pairs("ann", 5, None)


@pytest.mark.parametrize("count", [101, -1])
async def test_what_is_asked_for_wrongly_is_named(
    settings: FeedbackSettings, database_url: str, count: int
) -> None:
    prepare_images(database_url, 2)
    async with open_leaser(settings) as leaser:
        with pytest.raises(InvalidInput, match="count"):
            await leaser.next_pairs("ann", count, None)
