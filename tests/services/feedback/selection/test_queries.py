"""Tests that each query of pool and selection uses an index."""

from typing import Any

import psycopg
import pytest
from psycopg import sql

from services.feedback.pool import queries as pool_queries
from services.feedback.selection import queries
from services.feedback.server import MIGRATIONS, SCHEMA
from shared.storage.migrations import apply_migrations
from tests.services.feedback.support.bulk_rows import fill, fill_pool

_A, _B = b"\x10" * 32, b"\x60" * 32
_DIMENSIONS = 16
_PAIR = {"a": [_A], "b": [_B]}
_QUERIES = vars(queries) | vars(pool_queries)
_SAMPLES: dict[str, dict[str, Any]] = {
    "TIDY": {},
    "STATE": {},
    "DISCARD": {"strategies": ["hard"]},
    "OPEN": {},
    "OPEN_PAIRS": {"hashes": [_A, _B]},
    "LABELLED_AMONG": {"hashes": [_A, _B]},
    "RANDOM_IMAGES": {"points": [_A, _B]},
    "LATEST_LABELLED": {"limit": 250},
    "DIVIDED": {"limit": 250},
    "SUBJECTS": {"hashes": [_A, _B]},
    "GOLD_BY_SUBJECT": {"points": [_A, _B]},
    "GOLD_BY_VOTES": {"votes": 3, "limit": 200},
    "ADD": _PAIR | {"strategy": "hard", "wanted": 1, "more": 0, "scores": [0.5], "truths": [None]},
    "SETTLE": {"limit": 500},
    "LEASE": {"strategies": ["hard"], "counts": [10], "annotator": "ann-1", "lease_s": 900.0},
    "RENEW": {"annotator": "ann-1", "limit": 10, "lease_s": 900.0},
    "HELD_BY_OTHERS": {"annotator": "ann-1"},
    "LEASES_AGAIN": {"lease_ids": [1, 2, 3]},
    "ANNOTATORS": {"limit": 1000},
    "OPEN_IMAGES": {"hashes": [_A, _B], "uploader": "ann-1", "annotator": "ann-1"},
    "NOTE_UPLOADS": {"hashes": [_A, _B], "uploader": "ann-1"},
    "POOL_SIZE": {},
    "VERSION": {"model_version": "one"},
    "COMPLETE_VERSIONS": {},
    "COMPLETE": {"version_id": 1},
    "OTHER_VERSIONS": {"version_id": 1},
    "FORGET_VERSION": {"version_id": 1},
    "WALK": {
        "version_id": 1,
        "model_version": "one",
        "after": "2020-01-01",
        "after_hash": b"",
        "limit": 256,
    },
    "STORE": {"version_id": 1, "hashes": [_A], "embeddings": ["[1]"], "qualities": [0.5]},
    "EMBEDDABLE": {"hashes": [_A]},
    "NEAR_DUPLICATES": {"hashes": [_A], "perceptual_hashes": [_A], "bits": 40},
    "MARK_UNEMBEDDABLE": {"sha256": _A, "model_version": "one", "why": "why"},
    "DISCARD_CANDIDATES": {"sha256": _A},
}
# Statements that read no table, and the insert of one given row.
_NOT_EXPLAINED = {"TRY_LEADER_LOCK", "NOW", "ADD_VERSION", "WAIT_FOR_ANNOTATOR"}
# Small tables: some thousand candidates, one or two versions, 16 counters. Of images two rows
# are read.
_MAY_BE_SCANNED = {"pool_versions", "candidates", "counters"}
_ONLY_TWO = {"POOL_SIZE": {"images"}}


@pytest.fixture(scope="module")
def filled(feedback_database: str) -> str:
    with psycopg.connect(feedback_database) as connection:
        connection.execute("DROP SCHEMA IF EXISTS feedback CASCADE")
    apply_migrations(feedback_database, SCHEMA, MIGRATIONS)
    fill(feedback_database, images=5_000, pairs=20_000, labels=40_000)
    fill_pool(feedback_database, candidates=3_000, leases=20_000, dimensions=_DIMENSIONS)
    return feedback_database


def _plan(database_url: str, query: Any, values: dict[str, Any]) -> dict[str, Any]:
    with psycopg.connect(database_url) as connection:
        text = query if isinstance(query, str) else query.as_string(connection)
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {text}".encode(), values).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def _scanned(plan: dict[str, Any]) -> set[str]:
    here = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return here.union(*map(_scanned, plan.get("Plans", [])))


@pytest.mark.parametrize("name", _SAMPLES)
def test_rows_are_found_through_an_index(filled: str, name: str) -> None:
    plan = _plan(filled, _QUERIES[name], _SAMPLES[name])
    assert _scanned(plan) <= _MAY_BE_SCANNED | _ONLY_TWO.get(name, set())


def test_neighbours_are_found_through_the_hnsw_index(filled: str) -> None:
    query = pool_queries.neighbours(1, _DIMENSIONS)
    text = str(_plan(filled, query, {"anchors": [_A], "count": 20}))
    assert "embeddings_1_hnsw" in text


@pytest.mark.parametrize(
    ("query", "values"),
    [
        (pool_queries.similarities(1), _PAIR),
        (pool_queries.qualities(1), {"hashes": [_A]}),
        (pool_queries.random_embedded(1), {"points": [_A]}),
    ],
)
def test_an_embedding_is_found_by_its_key(
    filled: str, query: sql.Composed, values: dict[str, Any]
) -> None:
    assert not _scanned(_plan(filled, query, values))


def test_every_query_is_checked() -> None:
    named = {name for name, text in _QUERIES.items() if name.isupper() and isinstance(text, str)}
    assert named == set(_SAMPLES) | _NOT_EXPLAINED
