"""Each query of the trainer finds its rows through an index, whatever the size of the tables."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from services.trainer.jobs import queries as job_queries
from services.trainer.registry import queries as registry_queries
from services.trainer.server import MIGRATIONS, SCHEMA
from shared.storage.migrations import apply_migrations

_NO_ID = "00000000-0000-0000-0000-000000000000"
_QUERIES = vars(job_queries) | vars(registry_queries)
_CLAIM = {"job_id": _NO_ID, "token": 1}
_STAGE = {"message": "m", "stage": "training"}
_PAGE = {"before": None, "size": 101}
_SAMPLES: dict[str, dict[str, Any]] = {
    "GET_JOB": {"job_id": _NO_ID},
    "LOCK_JOB": {"job_id": _NO_ID},
    "SAME_IMPORT": {"upload": "0" * 64, "content": Jsonb({"upload": "0" * 64})},
    "LIST_JOBS": _PAGE,
    "EVENTS_AFTER": {"job_id": _NO_ID, "after": 7},
    "CANCEL_QUEUED": {"job_id": _NO_ID, "requested_by": "ada"},
    "REQUEST_CANCELLATION": {"job_id": _NO_ID, "requested_by": "ada"},
    "CLAIM_JOB": {"lease_s": 15.0, "stage": "starting"},
    "LOCK_CLAIMED": _CLAIM,
    "RENEW_LEASE": {**_CLAIM, "lease_s": 15.0},
    "RECORD_PROGRESS": {**_CLAIM, **_STAGE, "progress": 0.5},
    "ENTER_STAGE": {**_CLAIM, **_STAGE},
    "SET_MESSAGE": {**_CLAIM, "message": "m"},
    "SET_SNAPSHOT": {**_CLAIM, "snapshot_id": "s"},
    "RELEASE": {**_CLAIM, **_STAGE},
    "RETRY_LATER": {**_CLAIM, **_STAGE, "delay_s": 2.0},
    "FINISH_JOB": {
        **_CLAIM,
        "state": "succeeded",
        "message": "m",
        "model_version": None,
        "gate": None,
    },
    "OPEN_JOBS": {},
    "COUNT_QUEUED": {},
    "VERSION_OR_BOOTSTRAP_JOB": {},
    "GET_VERSION": {"model_version": "v1"},
    "SET_GATE": {"model_version": "v1", "gate": None},
    "LIST_VERSIONS": _PAGE,
    "LATEST_DECISION": {},
    "DECISION": {"generation": 7},
    "LIST_DECISIONS": _PAGE,
    "OPERATING_POINT": {"seq": 7},
    "LATEST_OPERATING_POINT": {},
    "LIST_OPERATING_POINTS": _PAGE,
    "LIST_EVALUATIONS": _PAGE,
    "LIST_EVALUATIONS_OF_VERSION": {**_PAGE, "model_version": "version-1"},
    "JOB_EXISTS": {"job_id": _NO_ID},
    "FINISHED_TRAINING": {"job_id": _NO_ID},
    "LATEST_FINISHED_TRAINING": {},
}
_INSERTS = {
    *("INSERT_JOB", "INSERT_EVENT", "INSERT_VERSION", "INSERT_DECISION", "INSERT_EVALUATION"),
    *("INSERT_OPERATING_POINT", "INSERT_VERDICT"),
}
_LOCKS = {"LOCK_BOOTSTRAP", "LOCK_SERVING_HISTORY", "LOCK_SERVING_POINTER"}
# Reads one row of any version.
_MAY_SCAN = {"VERSION_OR_BOOTSTRAP_JOB": {"versions"}}

# Years of work: jobs of all kinds, of which one waits and one runs.
_FILL = (
    "INSERT INTO trainer.jobs (job_id, kind, spec, requested_by, state, ended_at)"
    " SELECT gen_random_uuid(), (ARRAY['train', 'import', 'evaluate', 'quantize'])[n % 4 + 1],"
    " '{}', 'ada', CASE WHEN n % 3 = 0 THEN 'failed' ELSE 'succeeded' END,"
    " now() - make_interval(mins => 10000 - n) FROM generate_series(1, 10000) AS n",
    "INSERT INTO trainer.jobs (job_id, kind, spec, requested_by, state, lease_expires_at)"
    " VALUES (gen_random_uuid(), 'import', '{}', 'ada', 'queued', NULL),"
    " (gen_random_uuid(), 'import', '{}', 'ada', 'running', now())",
    "INSERT INTO trainer.job_events (job_id, state, progress, message)"
    " SELECT job_id, state, 0.5, 'half way' FROM trainer.jobs, generate_series(1, 5)",
    "INSERT INTO trainer.versions (model_version, manifest, job_id)"
    " SELECT 'version-' || seq, '{}', job_id FROM trainer.jobs",
    "INSERT INTO trainer.serving_history (generation, model_version, who, why)"
    " SELECT seq, model_version, 'ada', '' FROM trainer.versions",
    "INSERT INTO trainer.operating_points (prior, who, why)"
    " SELECT 0.5, 'ada', '' FROM generate_series(1, 1000)",
    "INSERT INTO trainer.evaluations (job_id, model_version, result)"
    " SELECT job_id, 'version-' || seq % 500 + 1, '{}' FROM trainer.jobs",
)


@pytest.fixture(scope="module")
def filled(make_database: Callable[[], str]) -> str:
    database_url = make_database()
    apply_migrations(database_url, SCHEMA, MIGRATIONS)
    with psycopg.connect(database_url, autocommit=True) as connection:
        for statement in _FILL:
            connection.execute(statement.encode())
        connection.execute("VACUUM ANALYZE")
    return database_url


def _plan(database_url: str, query: str, sample: dict[str, Any]) -> dict[str, Any]:
    with psycopg.connect(database_url) as connection:
        row = connection.execute(f"EXPLAIN (FORMAT JSON) {query}".encode(), sample).fetchone()
    assert row is not None
    plan: dict[str, Any] = row[0][0]["Plan"]
    return plan


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in _nodes(child))]


def _scanned(plan: dict[str, Any]) -> set[str]:
    return {node["Relation Name"] for node in _nodes(plan) if node["Node Type"] == "Seq Scan"}


@pytest.mark.parametrize("name", _SAMPLES)
def test_rows_are_found_through_an_index(filled: str, name: str) -> None:
    plan = _plan(filled, _QUERIES[name], _SAMPLES[name])
    assert _scanned(plan) <= _MAY_SCAN.get(name, set())


@pytest.mark.parametrize(
    "name",
    [
        "LIST_JOBS",
        "LIST_VERSIONS",
        "LIST_EVALUATIONS",
        "LATEST_DECISION",
        "LATEST_OPERATING_POINT",
        "LIST_OPERATING_POINTS",
        "LATEST_FINISHED_TRAINING",
    ],
)
def test_lists_are_read_in_order_and_not_sorted(filled: str, name: str) -> None:
    nodes = _nodes(_plan(filled, _QUERIES[name], _SAMPLES[name]))
    assert "Sort" not in {node["Node Type"] for node in nodes}


def test_the_check_sees_a_scan(filled: str) -> None:
    plan = _plan(filled, "SELECT * FROM trainer.jobs WHERE requested_by = 'bob'", {})
    assert _scanned(plan) == {"jobs"}


def test_every_query_is_checked() -> None:
    named = {name for name, text in _QUERIES.items() if name[0].isupper() and isinstance(text, str)}
    assert named == set(_SAMPLES) | _INSERTS | _LOCKS
