"""Tests of the upgrade of a database whose consensus was derived by weights."""

import asyncio
import shutil
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import psycopg
import pytest
from magface.v1 import feedback_pb2 as pb
from magface.v1 import feedback_pb2_grpc

from services.feedback.labels.consensus import majority
from services.feedback.labels.consensus_view import ConsensusRule, apply_rule, read_rule
from services.feedback.labels.types import Label
from services.feedback.server import MIGRATIONS, SCHEMA
from services.feedback.settings import FeedbackSettings
from shared.storage.migrations import apply_migrations
from shared.storage.postgres import open_pool
from tests.services.feedback.support.helpers import settings_for, stub_on
from tests.support.waiting import wait_until

_STORED = Path(__file__).with_name("stored") / "weighted_consensus.sql"
_TAKEN_BY_MAJORITY = "1bb35f07-84c9-4374-ada3-53524270efc6"
_TAKEN_BY_WEIGHTS = "a869cddf-ed69-40e0-9d03-2271bc04f07c"
_SETTING = "MAGFACE_FEEDBACK_CONSENSUS"
# That version applied weights before it wrote them to consensus_rule; a crash may come between.
_CRASHED = "UPDATE feedback.consensus_rule SET weighting_id = NULL"


@pytest.fixture
def stored(database_url: str, tmp_path: Path) -> str:
    """The schema and rows of the last version with weights."""
    for number in range(1, 5):
        (file,) = MIGRATIONS.glob(f"000{number}_*.sql")
        shutil.copy(file, tmp_path)
    apply_migrations(database_url, SCHEMA, tmp_path)
    with psycopg.connect(database_url) as connection:
        connection.execute(_STORED.read_bytes())
    return database_url


def _rows(database_url: str, query: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(database_url) as connection:
        return connection.execute(query.encode()).fetchall()


async def _started(database_url: str, minimum_votes: int = 1) -> None:
    """Wait until the service has derived every consensus."""
    wanted = [(minimum_votes, "majority")]
    rule = "SELECT minimum_votes, derived_by FROM feedback.consensus_rule"
    await asyncio.to_thread(wait_until, lambda: _rows(database_url, rule) == wanted, 20)


def _by_majority(database_url: str, minimum_votes: int = 1) -> dict[int, tuple[str | None, float]]:
    votes: dict[int, dict[str, Label]] = defaultdict(dict)
    for pair, annotator, label in _rows(
        database_url, "SELECT pair_id, annotator, label FROM feedback.labels ORDER BY label_id"
    ):
        votes[pair][annotator] = Label(label)
    found = {pair: majority(said, minimum_votes) for pair, said in votes.items()}
    return {pair: (one.label, one.confidence) for pair, one in found.items()}


def _consensus(database_url: str) -> dict[int, tuple[str | None, float]]:
    query = "SELECT pair_id, consensus, confidence FROM feedback.pair_consensus"
    return {pair: (label, confidence) for pair, label, confidence in _rows(database_url, query)}


def _warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records if _SETTING in one.getMessage()]


async def _export(
    stub: feedback_pb2_grpc.FeedbackServiceStub, snapshot_id: str
) -> list[tuple[str, str, int, float]]:
    parts = stub.ExportPairs(pb.ExportPairsRequest(snapshot_id=snapshot_id))
    return [
        (one.sha256_a, one.sha256_b, one.label, one.confidence)
        async for part in parts
        for one in part.pairs
    ]


@pytest.mark.parametrize("crashed", [False, True])
async def test_consensus_by_weights_is_derived_by_majority_and_logged_once(
    stored: str, settings: FeedbackSettings, caplog: pytest.LogCaptureFixture, *, crashed: bool
) -> None:
    by_weights = _consensus(stored)
    if crashed:
        with psycopg.connect(stored) as connection:
            connection.execute(_CRASHED.encode())
    async with stub_on(settings) as stub:
        await _started(stored)
        stats = await stub.GetStats(pb.GetStatsRequest())
    assert by_weights != _consensus(stored) == _by_majority(stored)
    kinds = Counter(label for label, _ in _consensus(stored).values())
    assert (stats.pairs_same, stats.pairs_different) == (kinds["same"], kinds["different"])
    assert stats.pairs_undecided == 0
    (warning,) = _warnings(caplog)
    assert "majority" in warning

    caplog.clear()
    stricter = settings.model_copy(update={"feedback_minimum_votes": 2})
    async with stub_on(stricter):
        await _started(stored, minimum_votes=2)
    assert _consensus(stored) == _by_majority(stored, minimum_votes=2)
    assert _warnings(caplog) == []


async def test_consensus_is_not_derived_a_second_time(
    stored: str, settings: FeedbackSettings
) -> None:
    apply_migrations(stored, SCHEMA, MIGRATIONS)
    pool = await open_pool(settings)
    written = "SELECT pair_id, xmin::text FROM feedback.pair_consensus ORDER BY pair_id"
    assert await read_rule(pool) == ConsensusRule(1, "weighted")
    before = _rows(stored, written)
    await apply_rule(pool, 1)
    derived = _rows(stored, written)
    await apply_rule(pool, 1)
    assert await read_rule(pool) == ConsensusRule(1, "majority")
    await pool.close()
    assert before != derived == _rows(stored, written)


async def test_snapshots_taken_by_weights_are_exported_by_majority(
    stored: str, settings: FeedbackSettings
) -> None:
    async with stub_on(settings) as stub:
        by_majority = await _export(stub, _TAKEN_BY_MAJORITY)
        assert await _export(stub, _TAKEN_BY_WEIGHTS) == by_majority
        assert await _export(stub, "") == by_majority
    assert len(by_majority) == len(_by_majority(stored)) == 22


@pytest.mark.parametrize(("value", "lines"), [("weighted", 1), ("majority", 0), (None, 0)])
async def test_the_removed_setting_is_ignored_and_logged_once(
    database_url: str,
    settings: FeedbackSettings,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    *,
    value: str | None,
    lines: int,
) -> None:
    if value is not None:
        monkeypatch.setenv(_SETTING, value)
    async with stub_on(settings_for(database_url, settings)):
        await _started(database_url)
    found = _warnings(caplog)
    assert len(found) == lines
    assert all("ignored" in one for one in found)


async def test_weights_and_estimates_are_gone(
    stored: str, stub: feedback_pb2_grpc.FeedbackServiceStub
) -> None:
    assert not (await stub.ListAnnotators(pb.ListAnnotatorsRequest())).annotators
    columns = "SELECT table_name, column_name FROM information_schema.columns"
    named = _rows(stored, f"{columns} WHERE table_schema = 'feedback'")
    assert not [one for one in named if "weight" in "".join(one)]
