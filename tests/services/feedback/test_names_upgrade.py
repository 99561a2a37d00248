"""Tests of the upgrade of a database whose names were stored as they were sent."""

import asyncio
import shutil
from pathlib import Path

import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb

from services.feedback.server import MIGRATIONS, SCHEMA
from services.feedback.settings import FeedbackSettings
from shared.storage.migrations import apply_migrations
from shared.validation import normal_name
from tests.services.feedback.support.helpers import stub_on
from tests.support.texts import LOOKALIKES, SPELLINGS
from tests.support.waiting import wait_until

_NAME = "Zo\u00eb Roe"
_VARIANTS = (*SPELLINGS, *LOOKALIKES, _NAME)
_LABELS = (
    "INSERT INTO feedback.labels (pair_id, annotator, label, idempotency_key)"
    " VALUES (1, %s, %s, %s)"
)


@pytest.fixture
def before(database_url: str, tmp_path: Path) -> str:
    """A database of the last version that kept every spelling, with labels of two people."""
    for file in sorted(MIGRATIONS.glob("*.sql"))[:7]:
        shutil.copy(file, tmp_path)
    apply_migrations(database_url, SCHEMA, tmp_path)
    with psycopg.connect(database_url) as connection:
        connection.execute(
            "INSERT INTO feedback.images (sha256, size_bytes, media_type, alignment)"
            " SELECT sha256(n::text::bytea), 1000, 'image/png', 'aligned'"
            " FROM generate_series(1, 30) AS n"
        )
        connection.execute(
            "INSERT INTO feedback.pairs (image_a, image_b)"
            " SELECT min(sha256), max(sha256) FROM feedback.images"
        )
        connection.execute("UPDATE feedback.counters SET images = 30 WHERE slot = 0")
        for number, name in enumerate((*_VARIANTS, "bob")):
            label = "different" if number == len(_VARIANTS) - 1 else "same"
            connection.execute(_LABELS, [name, label, f"key-{number}"])
            connection.execute("INSERT INTO feedback.annotators (annotator) VALUES (%s)", [name])
            connection.execute(
                "INSERT INTO feedback.image_subjects (sha256, subject)"
                " SELECT sha256, %s FROM feedback.images ORDER BY sha256 LIMIT 1 OFFSET %s",
                [name, number],
            )
        connection.execute(
            "INSERT INTO feedback.pair_consensus VALUES (1, 'same', 0.9, 19, 1, 0, now())"
        )
        connection.execute("UPDATE feedback.counters SET pairs_same = 1 WHERE slot = 0")
        connection.execute(
            "INSERT INTO feedback.candidates (image_a, image_b, strategy, score, wanted, holders)"
            " SELECT image_a, image_b, 'hard', 1, 9, %s FROM feedback.pairs",
            [list(_VARIANTS)],
        )
        connection.execute(
            "INSERT INTO feedback.leases (image_a, image_b, annotator, strategy, expires_at)"
            " SELECT image_a, image_b, %s, 'hard', now() FROM feedback.pairs",
            [SPELLINGS[0]],
        )
        connection.execute("INSERT INTO feedback.consensus_rule (minimum_votes) VALUES (1)")
    return database_url


def _column(database_url: str, query: str) -> list[str]:
    with psycopg.connect(database_url) as connection:
        return [row[0] for row in connection.execute(query.encode())]


async def test_the_spellings_of_an_annotator_become_one_vote_and_the_latest_counts(
    before: str, settings: FeedbackSettings
) -> None:
    async with stub_on(settings) as stub:
        rule = "SELECT derived_by FROM feedback.consensus_rule"
        await asyncio.to_thread(wait_until, lambda: _column(before, rule) == ["majority"], 10)
        (pair,) = (await stub.ListPairs(pb.ListPairsRequest())).pairs
        stats = await stub.GetStats(pb.GetStatsRequest())
    assert (pair.votes_same, pair.votes_different) == (1, 1)
    assert (stats.annotators, stats.pairs_same, stats.pairs_undecided) == (2, 0, 1)
    for table in ("labels", "annotators", "leases"):
        found = set(_column(before, f"SELECT annotator FROM feedback.{table}"))  # noqa: S608
        assert found <= {_NAME, "bob"}
    held = "SELECT holders FROM feedback.candidates WHERE cardinality(holders) > 0"
    assert _column(before, held) == [[_NAME]]


async def test_a_person_of_any_spelling_is_erased_by_one(
    before: str, settings: FeedbackSettings
) -> None:
    async with stub_on(settings) as stub:
        erase = pb.DeleteSubjectRequest(subject=_NAME, requested_by="dpo", request_id="ticket")
        erasure = (await stub.DeleteSubject(erase)).erasure
    assert erasure.images == len(_VARIANTS)
    assert _column(before, "SELECT subject FROM feedback.image_subjects") == ["bob"]


def test_postgres_normalises_as_the_contract_does(database_url: str) -> None:
    source = (MIGRATIONS / "0008_names_and_tombstones.sql").read_text("utf-8")
    begin = source.index("CREATE FUNCTION pg_temp")
    function = source[begin : source.index("$$;", begin) + 3]
    spaces = [chr(code) for code in range(0x110000) if chr(code).isspace()]
    names = [f"{space}a{space}e\u0301 {space}\u212b" for space in spaces if space > "\x9f"]
    names += [*SPELLINGS, "\uac00\u11a8", "\u0958" * 100, "ab", "\U0001d15e"]
    with psycopg.connect(database_url) as connection:
        connection.execute(function.encode())
        rows = connection.execute(
            "SELECT pg_temp.normal_name(name) FROM unnest(%s::text[]) AS name", [names]
        ).fetchall()
    wanted = [normal_name(name)[:128] for name in names]
    # Separators of lines are refused in every version.
    made = [row[0] for row in rows]
    differing = [
        sent
        for sent, ours, theirs in zip(names, wanted, made, strict=True)
        if ours != theirs and not set(sent) & {"\u2028", "\u2029"}
    ]
    assert differing == []
