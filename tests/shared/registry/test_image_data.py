"""The registry of image data is complete, and what it lists as edited is edited."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from services.feedback import server as feedback_server
from services.trainer import server as trainer_server
from shared.registry.image_data import EDITED_KINDS, OBJECTS, TABLES, Erasure
from shared.storage.migrations import apply_migrations
from tests.support.traces import tables

ROOT = Path(__file__).parents[3]
# Modules that write objects, by the prefixes of the keys. A module that writes another kind of
# object is added here, and the kind to the registry.
WRITERS = {
    "services/feedback/images/vault.py": {"images/"},
    "services/trainer/data/label_report.py": {"suspects/"},
    "services/trainer/data/reference_faces.py": {"reference/"},
    "services/trainer/jobs/completion.py": {"evaluations/"},
    "services/trainer/jobs/uploads.py": {"uploads/"},
    "services/trainer/training/checkpoint.py": {"jobs/"},
    "shared/registry/erasure_mark.py": {"registry/"},
    "shared/registry/heartbeats.py": {"registry/"},
    "shared/registry/image_copies.py": {"copies/"},
    # Edited objects.
    "shared/registry/image_data.py": {"suspects/", "evaluations/"},
    "shared/registry/serving_pointer.py": {"registry/"},
    "shared/registry/shadow_pointer.py": {"registry/"},
    "shared/registry/version_store.py": {"models/"},
    # Looks whether the store can be written to.
    "deploy/local/s3_nanio.py": set(),
}


@pytest.fixture
def connection(database_url: str) -> Iterator[psycopg.Connection]:
    for server in (feedback_server, trainer_server):
        apply_migrations(database_url, server.SCHEMA, server.MIGRATIONS)
    with psycopg.connect(database_url) as connection:
        yield connection


def test_every_table_is_registered(connection: psycopg.Connection) -> None:
    assert {f"{schema}.{name}" for schema, name in tables(connection)} == set(TABLES)


def test_the_tables_that_refer_to_images_are_those_whose_rows_go_with_them(
    connection: psycopg.Connection,
) -> None:
    referring = connection.execute(
        "WITH RECURSIVE derived (oid) AS ("
        " SELECT 'feedback.images'::regclass::oid UNION"
        " SELECT conrelid FROM pg_constraint JOIN derived ON confrelid = derived.oid"
        " WHERE contype = 'f' AND conparentid = 0"
        ") SELECT oid::regclass::text FROM derived"
    ).fetchall()
    deleted = {name for name, erasure in TABLES.items() if erasure is Erasure.DELETED}
    assert {name for (name,) in referring} == deleted


def test_every_module_that_writes_objects_is_known_and_their_kinds_are_registered() -> None:
    writers = {
        str(path.relative_to(ROOT))
        for part in ("services", "shared", "cli", "deploy")
        for path in (ROOT / part).rglob("*.py")
        if _writes_objects(path)
    }
    assert writers == set(WRITERS)
    assert set().union(*WRITERS.values()) == set(OBJECTS)


def _writes_objects(path: Path) -> bool:
    """Say whether a module names a method of an object store that writes."""
    return any(
        isinstance(node, ast.Attribute)
        and node.attr in ("put", "put_file")
        and re.search(r"(objects|store)$", ast.unparse(node.value))
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_the_kinds_that_are_edited_are_those_with_an_editor() -> None:
    edited = {prefix for prefix, erasure in OBJECTS.items() if erasure is Erasure.EDITED}
    assert edited == {kind.prefix for kind in EDITED_KINDS}
