"""Schema migrations: numbered SQL files, each applied once to a schema in Postgres."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql

from shared.errors import PreconditionFailed
from shared.storage.database_errors import database_errors

_NO_PGVECTOR = 'extension "vector" is not available'
_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_LOCK_WAIT = "5min"


@dataclass(frozen=True)
class _Migration:
    number: int
    name: str
    text: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.text).hexdigest()


def apply_migrations(database_url: str, schema: str, folder: Path) -> list[str]:
    """Apply the pending migrations ``0001_name.sql`` … of a folder to a schema.

    The schema is created if it does not exist. Each file runs in its own transaction with the
    schema first in the search path, and is recorded in ``<schema>.migrations`` with its SHA-256.
    An advisory lock makes processes that start at the same time wait for each other.

    Returns:
        Names of the files that this call applied, in order.

    Raises:
        PreconditionFailed: If an applied file was changed or removed, a file has an invalid name
            or number, there is no file, or the SQL of a file fails (that file is rolled back).
        Unavailable: If the database cannot be reached or cannot be written to.
    """
    migrations = _read(folder)
    with (
        database_errors(f"cannot migrate schema {schema}"),
        psycopg.connect(database_url, autocommit=True, connect_timeout=5) as connection,
    ):
        _lock(connection, schema)
        pending = _pending(schema, migrations, _applied(connection, schema))
        for migration in pending:
            _apply(connection, schema, migration)
    return [migration.name for migration in pending]


def _read(folder: Path) -> list[_Migration]:
    found: list[_Migration] = []
    for path in sorted(folder.glob("*.sql")):
        match = _NAME.fullmatch(path.name)
        if match is None:
            raise PreconditionFailed(f"migration {path} is not named like 0001_name.sql")
        found.append(_Migration(int(match[1]), path.name, path.read_bytes()))
    if not found:
        raise PreconditionFailed(f"no migrations in {folder}: the installation is incomplete")
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise PreconditionFailed(
            f"migrations in {folder} must be numbered 1, 2, 3 … once each, not {numbers}"
        )
    return found


def _lock(connection: psycopg.Connection, schema: str) -> None:
    connection.execute(sql.SQL("SET lock_timeout = {}").format(_LOCK_WAIT))
    connection.execute(
        "SELECT pg_advisory_lock(hashtextextended(%s, 0))", [f"magface migrations {schema}"]
    )


def _applied(connection: psycopg.Connection, schema: str) -> dict[int, tuple[str, str]]:
    connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
    table = sql.Identifier(schema, "migrations")
    connection.execute(
        sql.SQL(
            "CREATE TABLE IF NOT EXISTS {} ("
            "number integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, "
            "applied_at timestamptz NOT NULL DEFAULT now())"
        ).format(table)
    )
    rows = connection.execute(sql.SQL("SELECT number, name, sha256 FROM {}").format(table))
    return {number: (name, sha256) for number, name, sha256 in rows}


def _pending(
    schema: str, migrations: list[_Migration], applied: dict[int, tuple[str, str]]
) -> list[_Migration]:
    known = {migration.number: migration for migration in migrations}
    for number, (name, sha256) in sorted(applied.items()):
        if number not in known:
            raise PreconditionFailed(
                f"schema {schema} has migration {name}, which this program does not know: "
                "the database was migrated by a newer version; start that version"
            )
        if (known[number].name, known[number].sha256) != (name, sha256):
            raise PreconditionFailed(
                f"migration {known[number].name} of schema {schema} is not the {name} that "
                f"was applied (SHA-256 {sha256}): restore the file and put the change in a new one"
            )
    return [migration for migration in migrations if migration.number not in applied]


def _apply(connection: psycopg.Connection, schema: str, migration: _Migration) -> None:
    try:
        with database_errors(f"cannot migrate schema {schema}"), connection.transaction():
            connection.execute(
                sql.SQL("SET LOCAL search_path = {}, public").format(sql.Identifier(schema))
            )
            connection.execute(migration.text)
            connection.execute(
                sql.SQL("INSERT INTO {} (number, name, sha256) VALUES (%s, %s, %s)").format(
                    sql.Identifier(schema, "migrations")
                ),
                [migration.number, migration.name, migration.sha256],
            )
    except psycopg.Error as error:
        text = " ".join(str(error).split())
        hint = "; install pgvector where Postgres runs" if _NO_PGVECTOR in text else ""
        raise PreconditionFailed(
            f"migration {migration.name} of schema {schema} failed and was rolled back:"
            f" {text}{hint}"
        ) from error
