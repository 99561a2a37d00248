"""Tests of the candidate queue."""

from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import psycopg
import pytest

from services.feedback.selection import candidate_queue
from services.feedback.selection.candidate_queue import CandidateQueue
from services.feedback.server import MIGRATIONS, SCHEMA
from services.feedback.settings import FeedbackSettings
from shared.storage.migrations import apply_migrations
from shared.storage.postgres import open_pool
from tests.services.feedback.support.bulk_rows import fill, fill_pool

_TARGET = 60
_OVERLAP = 2


@pytest.fixture
def filled(database_url: str) -> str:
    apply_migrations(database_url, SCHEMA, MIGRATIONS)
    fill(database_url, images=300, pairs=900, labels=2_700)
    fill_pool(database_url, candidates=0, leases=0, dimensions=8)
    with psycopg.connect(database_url) as connection:
        # Every fourth image would be left out of the pool.
        connection.execute("DELETE FROM feedback.unembeddable")
    return database_url


@pytest.fixture
async def queue(filled: str, settings: FeedbackSettings) -> AsyncIterator[CandidateQueue]:
    del filled
    pool = await open_pool(settings)
    try:
        yield CandidateQueue(pool, np.random.default_rng(0), overlap=_OVERLAP, target=_TARGET)
    finally:
        await pool.close()


def ask(database_url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(query.encode()).fetchall()


def counts(database_url: str) -> dict[str, int]:
    return dict(ask(database_url, "SELECT strategy, count(*) FROM feedback.candidates GROUP BY 1"))  # type: ignore[arg-type]


async def test_each_strategy_has_about_as_many_pairs_as_are_to_be_kept(
    queue: CandidateQueue, filled: str
) -> None:
    await queue.refill()
    found = counts(filled)
    for strategy in ("uncertainty", "hard", "random"):
        assert _TARGET / 2 <= found[strategy] <= _TARGET
    await queue.refill()
    assert counts(filled) == found, "what is full is left alone"


async def test_pairs_that_enough_people_labelled_are_left_out(
    queue: CandidateQueue, filled: str
) -> None:
    await queue.refill()
    rows = ask(
        filled,
        "SELECT strategy, wanted, holders, ARRAY("
        "  SELECT DISTINCT annotator FROM feedback.pairs JOIN feedback.labels USING (pair_id)"
        "  WHERE pairs.image_a = c.image_a AND pairs.image_b = c.image_b)"
        " FROM feedback.candidates c",
    )
    assert rows
    for strategy, wanted, holders, voters in rows:
        assert sorted(holders) == sorted(voters), "who labelled it counts as asked"
        if strategy in {"uncertainty", "hard", "random"}:
            assert len(voters) < wanted == _OVERLAP


async def test_an_image_that_is_left_out_of_the_pool_is_in_no_candidate(
    queue: CandidateQueue, filled: str
) -> None:
    with psycopg.connect(filled) as connection:
        connection.execute(
            "INSERT INTO feedback.unembeddable SELECT sha256, 'one', 'shows no face'"
            " FROM feedback.images WHERE get_byte(sha256, 31) < 128"
        )
    await queue.refill()
    assert len(counts(filled)) >= 4
    assert not ask(
        filled,
        "SELECT strategy FROM feedback.candidates"
        " WHERE get_byte(image_a, 31) < 128 OR get_byte(image_b, 31) < 128",
    )


async def test_one_more_is_asked_where_people_are_divided(
    queue: CandidateQueue, filled: str
) -> None:
    with psycopg.connect(filled) as connection:
        connection.execute(
            "UPDATE feedback.pair_consensus SET consensus = NULL, votes_same = 1,"
            " votes_different = 1 WHERE pair_id <= 20"
        )
    await queue.refill()
    rows = ask(
        filled,
        "SELECT wanted, cardinality(holders) FROM feedback.candidates"
        " WHERE strategy = 'disagreement'",
    )
    assert len(rows) == 20
    assert all(wanted == max(_OVERLAP, asked + 1) for wanted, asked in rows)


async def test_the_truth_of_gold_pairs_is_what_is_known(queue: CandidateQueue, filled: str) -> None:
    with psycopg.connect(filled) as connection:
        connection.execute(
            "UPDATE feedback.image_subjects SET subject = 'p' || get_byte(sha256, 0) % 40"
        )
    await queue.refill()
    rows = ask(
        filled,
        "SELECT truth, one.subject = other.subject, consensus, confidence"
        " FROM feedback.candidates c"
        " JOIN feedback.image_subjects AS one ON one.sha256 = c.image_a"
        " JOIN feedback.image_subjects AS other ON other.sha256 = c.image_b"
        " LEFT JOIN feedback.pairs p ON (p.image_a, p.image_b) = (c.image_a, c.image_b)"
        " LEFT JOIN feedback.pair_consensus USING (pair_id) WHERE strategy = 'gold'",
    )
    assert {truth for truth, *_ in rows} == {"same", "different"}
    for truth, same_subject, consensus, confidence in rows:
        by_subject = truth == ("same" if same_subject else "different")
        assert by_subject or (truth == consensus and confidence == 1)


async def test_an_image_of_several_names_is_in_no_gold_pair(
    queue: CandidateQueue, filled: str
) -> None:
    with psycopg.connect(filled) as connection:
        connection.execute("DELETE FROM feedback.pair_consensus")
        connection.execute(
            "UPDATE feedback.image_subjects SET subject = 'p' || get_byte(sha256, 0) % 3"
        )
        # p0 and p1 may be one person, as some images have both names.
        connection.execute(
            "INSERT INTO feedback.image_subjects (sha256, subject) SELECT sha256, 'p1'"
            " FROM feedback.image_subjects WHERE subject = 'p0' AND get_byte(sha256, 1) < 64"
        )
    await queue.refill()
    rows = ask(
        filled,
        "SELECT truth, one.subject, other.subject, (SELECT count(*) FROM feedback.image_subjects"
        "  WHERE sha256 IN (image_a, image_b)) FROM feedback.candidates c"
        " JOIN feedback.image_subjects AS one ON one.sha256 = c.image_a"
        " JOIN feedback.image_subjects AS other ON other.sha256 = c.image_b"
        " WHERE strategy = 'gold'",
    )
    assert {truth for truth, *_ in rows} == {"same", "different"}
    for truth, one, other, names in rows:
        assert names == 2
        assert truth == ("same" if one == other else "different")
        assert {one, other} != {"p0", "p1"}


async def test_pairs_that_nobody_holds_are_chosen_anew_after_many_labels(
    queue: CandidateQueue, filled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidate_queue, "_RETRY_S", 0.0)
    await queue.refill()
    with psycopg.connect(filled) as connection:
        connection.execute(
            "UPDATE feedback.candidates SET holders = ARRAY['ann'] WHERE candidate_id IN ("
            "  SELECT candidate_id FROM feedback.candidates"
            "  WHERE strategy = 'hard' AND holders = '{}' LIMIT 5)"
        )
    before = {row[0] for row in ask(filled, "SELECT candidate_id FROM feedback.candidates")}
    await queue.refill()
    after = {row[0] for row in ask(filled, "SELECT candidate_id FROM feedback.candidates")}
    assert before <= after
    with psycopg.connect(filled) as connection:
        connection.execute("UPDATE feedback.counters SET labels = labels + 100 WHERE slot = 3")
    await queue.refill()
    rows = ask(filled, "SELECT candidate_id, strategy, holders FROM feedback.candidates")
    kept = [row for row in rows if row[0] in before and row[1] in {"hard", "uncertainty"}]
    assert kept
    assert all(holders for _, _, holders in kept), "only what somebody holds or labelled stays"


async def test_a_pair_that_all_have_dealt_with_goes(queue: CandidateQueue, filled: str) -> None:
    await queue.refill()
    with psycopg.connect(filled) as connection:
        connection.execute(
            "UPDATE feedback.candidates SET holders = ARRAY['ann', 'bob'], wanted = 2"
            " WHERE strategy = 'hard'"
        )
        connection.execute(
            "INSERT INTO feedback.leases (image_a, image_b, annotator, strategy, expires_at)"
            " SELECT image_a, image_b, 'bob', strategy, now() + interval '1 hour'"
            " FROM feedback.candidates WHERE strategy = 'hard' ORDER BY candidate_id LIMIT 3"
        )
    await queue.refill()
    rows = ask(
        filled,
        "SELECT count(*) FROM feedback.candidates WHERE cardinality(holders) >= wanted",
    )
    assert rows == [(3,)], "only the pairs that bob still holds stay"
