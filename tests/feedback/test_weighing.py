"""Annotators weigh by how reliable they are, where their labels overlap, and everywhere alike."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from numpy.typing import NDArray

from services.feedback.annotators import Annotators
from services.feedback.ballots import read_ballots
from services.feedback.consensus import majority
from services.feedback.derive import follow_rule
from services.feedback.domain import Label, LabelledPair
from services.feedback.keeping import opened_keeping
from services.feedback.reliability import estimate
from services.feedback.rules import Rules
from services.feedback.settings import ConsensusRule, FeedbackSettings
from services.feedback.store import FeedbackStore
from services.feedback.weighing import Weigher
from services.feedback.weightings import ENOUGH_OVERLAP, keep, look
from shared.storage.objects import ObjectStore
from tests.feedback.electorate import (
    Electorate,
    add_images,
    draw_votes,
    electorate,
    image,
    judged,
    say,
    share_right,
)
from tests.feedback.helpers import settings_for, stub_on

_PEOPLE = {"ada": 0.92, "bob": 0.88, "cyd": 0.85, "spammer": 0.5, "contrarian": 0.1}
# Share of the pairs that the weights get right beyond the majority, at least.
_MARGIN = 0.1


def _consensus(database_url: str) -> list[Any]:
    with psycopg.connect(database_url) as connection:
        rows = "SELECT * FROM feedback.pair_consensus ORDER BY pair_id"
        return connection.execute(rows).fetchall()


def _weightings(database_url: str) -> int:
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT count(*) FROM feedback.weightings").fetchone()
    assert row is not None
    return int(row[0])


@pytest.fixture
async def people(
    settings: FeedbackSettings, object_store: ObjectStore
) -> AsyncIterator[Electorate]:
    async with electorate(settings, object_store) as people:
        yield people


def _pairs(
    database_url: str, count: int, *, seed: int
) -> tuple[np.random.Generator, NDArray[np.bool_]]:
    """Store the images of pairs, one more than asked for; say which are genuine."""
    add_images(database_url, count + 1)
    rng = np.random.default_rng(seed)
    return rng, rng.random(count) < 0.5


def _make_old(database_url: str) -> None:
    """Have all weights been estimated long ago."""
    with psycopg.connect(database_url) as connection:
        connection.execute("ALTER TABLE feedback.weightings DISABLE TRIGGER facts_stay")
        connection.execute("UPDATE feedback.weightings SET estimated_at = '2020-01-01'")
        connection.execute("ALTER TABLE feedback.weightings ENABLE TRIGGER facts_stay")


async def _export(store: FeedbackStore, snapshot_id: str = "") -> tuple[str, list[LabelledPair]]:
    parts = [part async for part in store.export(snapshot_id)]
    return parts[0][0], [pair for _, pairs in parts for pair in pairs]


async def test_of_five_one_spammer_and_one_contrarian_weights_beat_the_majority(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 400, seed=7)
    await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
    by_majority = share_right(await judged(people.store, len(truth)), truth)
    await people.weigher.round()
    by_weight = share_right(await judged(people.store, len(truth)), truth)
    records = await Annotators(people.pool, people.rules).records()
    assert by_weight >= by_majority + _MARGIN, (by_majority, by_weight)
    for record in records:
        assert record.reliability is not None
        assert record.reliability.weighted
        for right in (record.reliability.genuine_right, record.reliability.impostor_right):
            assert right == pytest.approx(_PEOPLE[record.annotator], abs=0.1)


async def test_without_overlap_the_majority_judges(people: Electorate, database_url: str) -> None:
    rng, truth = _pairs(database_url, 100, seed=1)
    await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=1))
    before = _consensus(database_url)
    await people.weigher.round()
    assert _weightings(database_url) == 0
    assert _consensus(database_url) == before
    assert len((await _export(people.store))[1]) == len(truth)


async def test_too_little_overlap_counts_as_the_average_annotator(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 60, seed=2)
    await say(people.store, draw_votes(truth, {"ada": 0.95, "bob": 0.95, "cyd": 0.95}, rng))
    few = {(pair, "newcomer"): Label.SAME for pair in range(ENOUGH_OVERLAP - 1)}
    await say(people.store, few | {(60, "newcomer"): Label.SAME})
    await people.weigher.round()
    await say(people.store, {(60, "stranger"): Label.SAME})
    (pair, *_), _ = await people.store.list_pairs(None, 1, "")
    with psycopg.connect(database_url) as connection:
        row = connection.execute("SELECT odds_same FROM feedback.weightings").fetchone()
    records = await Annotators(people.pool, people.rules).records()
    assert row is not None
    # Two votes of the average annotator, whoever they are.
    assert pair.confidence == pytest.approx(1 / (1 + np.exp(-2 * row[0])))
    newcomer = {one.annotator: one.reliability for one in records}["newcomer"]
    assert newcomer is not None
    assert (newcomer.overlap, newcomer.weighted) == (ENOUGH_OVERLAP - 1, False)


async def test_a_flood_of_one_persons_labels_does_not_outvote_the_others(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 900, seed=3)
    careful = {"ada": 0.9, "bob": 0.9, "cyd": 0.9}
    # Some pairs are asked of two or three; the flood says SAME to all, again and again.
    await say(people.store, draw_votes(truth[:120], careful, rng, asked=3))
    votes = draw_votes(truth[120:420], careful, rng, asked=1)
    await say(people.store, {(120 + pair, who): said for (pair, who), said in votes.items()})
    for _ in range(2):
        await say(people.store, {(pair, "flood"): Label.SAME for pair in range(len(truth))})
    await people.weigher.round()
    consensus = await judged(people.store, len(truth))
    records = await Annotators(people.pool, people.rules).records()
    on_their_own = share_right(consensus[120:420], truth[120:420])
    assert share_right(consensus[:120], truth[:120]) > 0.95
    # Where one careful person and the flood differ, the careful one is believed.
    assert on_their_own > 0.85
    reliability = {one.annotator: one.reliability for one in records}
    assert all(
        one is not None and (one.genuine_right + one.impostor_right > 1.6) is (who != "flood")
        for who, one in reliability.items()
    )


async def test_known_truth_tells_where_no_labels_overlap(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 200, seed=4)
    with psycopg.connect(database_url) as connection:
        for pair, same in enumerate(truth.tolist()):
            for side in (2 * pair, 2 * pair + 1):
                connection.execute(
                    "INSERT INTO feedback.image_subjects VALUES (%s, %s)",
                    [bytes.fromhex(image(side)), f"person-{2 * pair if same else side}"],
                )
    await say(people.store, draw_votes(truth, {"ada": 0.95, "spammer": 0.5}, rng, asked=1))
    await people.weigher.round()
    await say(people.store, {(len(truth), "spammer"): Label.SAME})
    assert (await judged(people.store, len(truth) + 1))[-1] is None
    await say(people.store, {(len(truth), "ada"): Label.SAME})
    assert (await judged(people.store, len(truth) + 1))[-1] is Label.SAME


async def test_deriving_from_scratch_gives_what_single_labels_led_to(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 150, seed=5)
    await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
    # Labels go on arriving while the weights change and every consensus follows.
    again = draw_votes(truth, _PEOPLE | {"eve": 0.8}, rng, asked=2)
    await asyncio.gather(say(people.store, again), people.weigher.round())
    await say(people.store, draw_votes(truth[:30], {"fay": 0.9}, rng))
    before, stats = _consensus(database_url), await people.store.stats()
    with psycopg.connect(database_url) as connection:
        connection.execute("DELETE FROM feedback.pair_consensus")
        connection.execute("DELETE FROM feedback.consensus_rule")
        connection.execute(
            "UPDATE feedback.counters SET pairs_same = 0, pairs_different = 0, pairs_undecided = 0"
        )
    await follow_rule(people.pool, Rules(people.rules.minimum_votes, weighted=True))
    assert _consensus(database_url) == before
    assert await people.store.stats() == stats


async def test_the_same_labels_give_the_same_weights(people: Electorate, database_url: str) -> None:
    rng, truth = _pairs(database_url, 100, seed=6)
    await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
    await people.weigher.round()
    now, then = await look(people.pool)
    assert now == then
    found = estimate(await read_ballots(people.pool, 10_000))
    assert found.votes == 300
    assert not await keep(people.pool, found, now)
    assert _weightings(database_url) == 1


async def test_weights_stored_just_before_a_crash_are_followed_after_it(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 100, seed=13)
    await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
    now, _ = await look(people.pool)
    assert await keep(people.pool, estimate(await read_ballots(people.pool, 10_000)), now)
    by_majority = await judged(people.store, len(truth))
    await Weigher(people.pool, people.rules).round()
    assert _weightings(database_url) == 1
    by_weight = await judged(people.store, len(truth))
    assert share_right(by_weight, truth) >= share_right(by_majority, truth) + _MARGIN


async def test_a_snapshot_is_the_same_for_ever_whatever_annotators_weigh_later(
    people: Electorate, settings: FeedbackSettings, object_store: ObjectStore, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 200, seed=8)
    await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
    unweighted = await _export(people.store)
    await people.weigher.round()
    first = await _export(people.store)
    # Who was good is not any more.
    careless = {name: 1 - right for name, right in _PEOPLE.items()} | {"eve": 0.9, "fay": 0.9}
    await say(people.store, draw_votes(truth, careless, rng))
    _make_old(database_url)
    await people.weigher.round()
    assert len({str(pairs) for _, pairs in (unweighted, first, await _export(people.store))}) == 3
    for weighted in (True, False):
        async with electorate(settings, object_store, weighted=weighted) as others:
            for snapshot_id, pairs in (unweighted, first):
                assert await _export(others.store, snapshot_id) == (snapshot_id, pairs)


async def test_weights_that_nothing_was_judged_by_are_forgotten(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 120, seed=9)
    for _ in range(3):
        await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
        await people.weigher.round()
    assert _weightings(database_url) == 3
    _make_old(database_url)
    await people.weigher.round()
    assert _weightings(database_url) == 1


async def test_erased_labels_do_not_count(
    people: Electorate, settings: FeedbackSettings, object_store: ObjectStore, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 60, seed=10)
    await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
    await people.weigher.round()
    records = await Annotators(people.pool, people.rules).records()
    assert sum(one.reliability.overlap for one in records if one.reliability) == 180
    async with opened_keeping(settings, object_store, people.pool) as keeping:
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "INSERT INTO feedback.image_subjects SELECT sha256(n::text::bytea), 'Jane'"
                " FROM generate_series(0, 97, 2) AS n"
            )
        await keeping.eraser.erase_subject("Jane", "dpo", "ticket")
    await people.weigher.round()
    # Eleven pairs are left: nobody has enough of them, and all count the same.
    records = await Annotators(people.pool, people.rules).records()
    known = [one.reliability for one in records if one.reliability]
    assert sum(one.overlap for one in known) == 33
    assert not any(one.weighted for one in known)
    left = await people.store.list_pairs(None, 1000, "")
    assert len(left[0]) == 11
    for pair in left[0]:
        votes = {f"same-{n}": Label.SAME for n in range(pair.votes_same)}
        votes |= {f"different-{n}": Label.DIFFERENT for n in range(pair.votes_different)}
        wanted = majority(votes, 1)
        assert (pair.consensus, pair.confidence) == (wanted.label, wanted.confidence)


async def test_the_service_weighs_as_it_is_set_and_says_so(
    settings: FeedbackSettings, object_store: ObjectStore, database_url: str
) -> None:
    rng = np.random.default_rng(11)
    truth = rng.random(100) < 0.5
    async with electorate(settings, object_store, weighted=False) as people:
        add_images(database_url, len(truth))
        await say(people.store, draw_votes(truth, _PEOPLE, rng, asked=3))
    set_so = settings_for(database_url, settings, feedback_consensus=ConsensusRule.WEIGHTED)
    async with stub_on(set_so) as stub, asyncio.timeout(20):
        wanted = pb.ListAnnotatorsRequest()
        while not (answer := await stub.ListAnnotators(wanted)).annotators:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert {one.annotator for one in answer.annotators} == set(_PEOPLE)
    assert all(one.weighted and one.overlap > 20 for one in answer.annotators)
    rule = "SELECT weighting_id FROM feedback.consensus_rule"
    async with stub_on(settings) as stub, asyncio.timeout(20):
        assert not (await stub.ListAnnotators(wanted)).annotators
        with psycopg.connect(database_url) as connection:
            while connection.execute(rule).fetchone() != (None,):  # noqa: ASYNC110
                await asyncio.sleep(0.05)


async def test_labels_since_are_learned_from_once_there_are_enough(
    people: Electorate, database_url: str
) -> None:
    rng, truth = _pairs(database_url, 200, seed=12)
    votes = draw_votes(truth, _PEOPLE, rng)
    early = {key: said for key, said in votes.items() if key[0] < 150}
    await say(people.store, early)
    await people.weigher.round()
    some = {key: said for key, said in votes.items() if 150 <= key[0] < 157}
    await say(people.store, some)
    await people.weigher.round()
    assert _weightings(database_url) == 1
    await say(people.store, {key: said for key, said in votes.items() if key[0] >= 157})
    # Another process knows from the tables alone.
    await Weigher(people.pool, people.rules).round()
    assert _weightings(database_url) == 2
