"""Tests that each query of labels and erasure uses an index."""

from typing import Any

import psycopg
import pytest

from services.feedback.erasure import queries as erasure_queries
from services.feedback.images import queries as image_queries
from services.feedback.labels import queries
from services.feedback.server import MIGRATIONS, SCHEMA
from shared.storage.migrations import apply_migrations
from tests.services.feedback.support.bulk_rows import fill

_A, _B = b"\0" * 32, b"\1" * 32
_NO_ID = "00000000-0000-0000-0000-000000000000"
_QUERIES = vars(queries) | vars(erasure_queries) | vars(image_queries)
_SAMPLES: dict[str, dict[str, Any]] = {
    "IMAGES": {"hashes": [_A, _B]},
    "LABELS_BY_KEY": {"keys": ["filled-1", "filled-2"]},
    "LOCK_PAIRS": {"a": [_A], "b": [_B]},
    "CURRENT_VOTES": {"pairs": [1, 2, 3]},
    "CONSENSUS_BEFORE": {"pairs": [1, 2, 3]},
    "COUNT": {"images": 1, "labels": 1, "same": 1, "different": 0, "undecided": 0},
    "STATS": {},
    "LIST_PAIRS": {"before": 2**63 - 1, "limit": 101},
    "LIST_PAIRS_OF_CONSENSUS": {"consensus": "same", "before": 9_000, "limit": 101},
    "LOCK_PAIRS_AFTER": {"after": 7, "limit": 1000},
    "TAKE_SNAPSHOT": {"minimum_votes": 1},
    "SAME_SNAPSHOT": {"minimum_votes": 1},
    "FIND_SNAPSHOT": {"snapshot_id": _NO_ID},
    "REMOVAL_EPOCH": {},
    "INCREMENT_EPOCH": {},
    "UPLOAD_EPOCH": {"hashes": [_A, _B]},
    "LIST_IMAGE": {"sha256": _A, "request_id": "r", "has_object": False},
    "ASKED_FOR": {"request_id": "r"},
    "ADD_TOMBSTONES": {"request_id": "r", "marks": [_A, _B]},
    "FORGET_TOMBSTONE": {"mark": _A},
    "FORGET_TOMBSTONES": {"days": 30},
    "TOMBSTONES": {"marks": [_A, _B]},
    "INSERT_SUBJECTS": {"hashes": [_A], "subjects": ["ann"]},
    "SUBJECTS_OF": {"hashes": [_A, _B]},
    "ERASURE_KEY": {},
    "IMAGE_SIZES": {"first": b"\x01", "last": b"\x01" + b"\xff" * 32},
    "NEXT_IMAGE": {"after": _A},
    "OBJECT_HASH": {"sha256": _A},
    "LIST_SUBJECT": {"subject": "somebody", "request_id": "r"},
    "LIST_EXPIRED": {"before": "2020-01-01", "limit": 1000, "request_id": "r"},
    "WITHOUT_ROW": {"hashes": [_A, _B]},
    "LIST_ORPHANS": {"hashes": [_A, _B]},
    "REOPEN_ERASURE": {"request_id": "r"},
    "ANY_EXPIRED": {"before": "2020-01-01"},
    "NEXT_REMOVALS": {"request_id": "r", "lease_s": 1, "limit": 32},
    "STILL_LISTED": {"request_id": "r", "hashes": [_A, _B]},
    "TAKE_REMOVALS": {"request_id": "r", "token": _NO_ID, "lease_s": 1, "hashes": [_A]},
    "FORGET_REMOVALS": {"request_id": "r", "token": _NO_ID, "hashes": [_A]},
    "REMOVALS_LEFT": {"request_id": "r"},
    "PAIRS_OF_IMAGES": {"hashes": [_A, _B], "limit": 2000},
    "DELETE_LABELS": {"pairs": [1, 2, 3]},
    "DELETE_CONSENSUS": {"pairs": [1, 2, 3]},
    "DELETE_PAIRS": {"pairs": [1, 2, 3]},
    "USES": {"hashes": [_A, _B]},
    "DELETE_IMAGES": {"hashes": [_A, _B]},
    "RECORD_SNAPSHOTS": {"request_id": "r", "first_label_id": 7},
    "COUNT_ERASED": {"request_id": "r", "images": 1, "pairs": 1, "labels": 1},
    "ERASURE": {"request_id": "r"},
    "ERASED_SNAPSHOTS": {"request_id": "r"},
    "UNFINISHED": {},
    "FINISH_ERASURE": {"request_id": "r"},
    "EXPIRED_BEFORE": {"days": 365},
    "COUNT_EXPIRED": {"before": "2020-01-01"},
    "STORED_IMAGES": {},
    "TAKEN_BY_RETENTION": {},
    "TAKEN_BY_SWEEPS": {},
    "FORGET_SWEEPS": {},
    "HELD": {"rule": "retention"},
    "APPROVE": {"rule": "retention", "images": 1, "approved_by": "ann"},
    "RELEASE": {"rule": "retention"},
    "COPY_HOLDERS": {"request_id": "r"},
    "SET_COPY_HOLDERS": {"request_id": "r", "holders": ["job-1"]},
    "LIST_AUDIT": {"before": 2**63 - 1, "limit": 101},
    "EXPORT_PAGE": {"after": 5_000, "limit": 500, "max_label_id": 24_000},
}
# Small tables: 16 counters, one rule, one epoch, one key, some annotators and snapshots, what two
# rules of erasure hold, and the sweeps of a day.
_MAY_BE_SCANNED = {"counters", "consensus_rule", "annotators", "snapshots", "removal_epoch"} | {
    "erasure_key",
    "held_erasures",
    "sweeps",
}
# Inserts of given rows, which use the key that ON CONFLICT names.
_INSERTS = {"INSERT_IMAGES", "INSERT_PAIRS", "INSERT_LABELS", "STORE_CONSENSUS"} | {
    "RECORD_ERASURE",
    "RECORD_SWEEP",
    "HOLD",
    "RECORD_USES",
    "AUDIT",
}

# Many erasures, of which only the last is unfinished.
_ERASED = (
    "INSERT INTO feedback.erasures (request_id, action, actor, finished_at)"
    " SELECT 'request-' || n, 'erase_image', 'ann', CASE WHEN n < 5000 THEN now() END"
    " FROM generate_series(1, 5000) AS n",
    "INSERT INTO feedback.snapshots (max_label_id, minimum_votes) SELECT 1000 * n, 1"
    " FROM generate_series(1, 20) AS n",
    "INSERT INTO feedback.erasure_snapshots SELECT request_id, snapshot_id"
    " FROM feedback.erasures, feedback.snapshots",
    "INSERT INTO feedback.removals (sha256, request_id)"
    " SELECT sha256(n::text::bytea), 'request-' || n % 20 FROM generate_series(1, 5000) AS n",
    "INSERT INTO feedback.image_subjects (sha256, subject)"
    " SELECT sha256, 'person-' || row_number() OVER () / 5 FROM feedback.images",
    "INSERT INTO feedback.tombstones SELECT sha256(n::text::bytea), now() - n * interval '1 min'"
    " FROM generate_series(1, 5000) AS n",
    "INSERT INTO feedback.image_uses SELECT sha256, 1 FROM feedback.images",
    "INSERT INTO feedback.audit (actor, action, request_id)"
    " SELECT 'ann', 'erase_image', request_id FROM feedback.erasures",
)


@pytest.fixture(scope="module")
def filled(feedback_database: str) -> str:
    with psycopg.connect(feedback_database) as connection:
        connection.execute("DROP SCHEMA IF EXISTS feedback CASCADE")
    apply_migrations(feedback_database, SCHEMA, MIGRATIONS)
    fill(feedback_database, images=2_000, pairs=12_000, labels=24_000)
    with psycopg.connect(feedback_database, autocommit=True) as connection:
        for statement in _ERASED:
            connection.execute(statement.encode())
        connection.execute("VACUUM ANALYZE")
    return feedback_database


def _plan(database_url: str, query: str, sample: dict[str, Any]) -> dict[str, Any]:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode(), sample).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def _scanned(plan: dict[str, Any]) -> set[str]:
    here = {plan["Relation Name"]} if plan["Node Type"] == "Seq Scan" else set()
    return here.union(*map(_scanned, plan.get("Plans", [])))


@pytest.mark.parametrize("name", _SAMPLES)
def test_rows_are_found_through_an_index(filled: str, name: str) -> None:
    plan = _plan(filled, _QUERIES[name], _SAMPLES[name])
    assert _scanned(plan) <= _MAY_BE_SCANNED


def test_the_check_sees_a_scan(filled: str) -> None:
    plan = _plan(filled, "SELECT * FROM feedback.labels WHERE annotator = 'ann-1'", {})
    assert _scanned(plan) == {"labels"}


def test_an_export_page_is_read_in_order_without_sorting_the_labels(filled: str) -> None:
    text = str(_plan(filled, queries.EXPORT_PAGE, _SAMPLES["EXPORT_PAGE"]))
    assert "labels_current" in text


def test_every_query_is_checked() -> None:
    named = {name for name, text in _QUERIES.items() if name.isupper() and isinstance(text, str)}
    statements = {
        "LOCK_LABELS",
        "RULE",
        "SET_RULE",
        "SHARE_REMOVAL_LOCK",
        "LOCK_DERIVED",
        "LOCK_REMOVALS",
        "ALLOW_REMOVAL",
    }
    assert named == set(_SAMPLES) | _INSERTS | statements
