import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from shared.errors import PreconditionFailed, Unavailable
from shared.storage.migrations import apply_migrations

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write migration files into a folder; arguments are name=SQL without .sql."""

    def write_files(**files: str) -> Path:
        for name, text in files.items():
            (tmp_path / f"{name.removeprefix('m')}.sql").write_text(text)
        return tmp_path

    return write_files


def _rows(url: str, query: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(query.encode()).fetchall()


def test_each_file_is_applied_once_in_order(database_url: str, write: Write) -> None:
    folder = write(
        m0001_first="CREATE TABLE things (id int); INSERT INTO things VALUES (1);",
        m0002_second="INSERT INTO things VALUES (100 % 98); -- with a percent sign",
    )
    assert apply_migrations(database_url, "ours", folder) == ["0001_first.sql", "0002_second.sql"]
    assert apply_migrations(database_url, "ours", folder) == []
    assert _rows(database_url, "SELECT id FROM ours.things ORDER BY id") == [(1,), (2,)]


def test_a_later_file_is_applied_to_what_is_there(database_url: str, write: Write) -> None:
    apply_migrations(database_url, "ours", write(m0001_first="CREATE TABLE things (id int)"))
    folder = write(m0002_second="INSERT INTO things VALUES (7)")
    assert apply_migrations(database_url, "ours", folder) == ["0002_second.sql"]
    assert _rows(database_url, "SELECT id FROM ours.things") == [(7,)]


def test_two_schemas_share_a_database(database_url: str, write: Write) -> None:
    folder = write(m0001_first="CREATE TABLE things (id int)")
    assert apply_migrations(database_url, "ours", folder)
    assert apply_migrations(database_url, "theirs", folder)


def test_failing_file_leaves_nothing_and_keeps_the_ones_before(
    database_url: str, write: Write
) -> None:
    folder = write(
        m0001_good="CREATE TABLE good (id int)",
        m0002_bad="CREATE TABLE half (id int); INSERT INTO nowhere VALUES (1)",
    )
    with pytest.raises(PreconditionFailed, match=r"0002_bad\.sql .*nowhere"):
        apply_migrations(database_url, "ours", folder)
    tables = "SELECT tablename FROM pg_tables WHERE schemaname = 'ours' ORDER BY tablename"
    assert _rows(database_url, tables) == [("good",), ("migrations",)]
    folder = write(m0002_bad="CREATE TABLE mended (id int)")
    assert apply_migrations(database_url, "ours", folder) == ["0002_bad.sql"]


def test_changed_file_is_refused(database_url: str, write: Write) -> None:
    apply_migrations(database_url, "ours", write(m0001_first="CREATE TABLE things (id int)"))
    folder = write(m0001_first="CREATE TABLE things (id bigint)", m0002_next="SELECT 1")
    with pytest.raises(PreconditionFailed, match=r"0001_first\.sql .* restore the file"):
        apply_migrations(database_url, "ours", folder)
    assert _rows(database_url, "SELECT count(*) FROM ours.migrations") == [(1,)]


def test_missing_file_is_refused(database_url: str, write: Write) -> None:
    folder = write(m0001_first="SELECT 1", m0002_second="SELECT 1")
    apply_migrations(database_url, "ours", folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(PreconditionFailed, match=r"0002_second\.sql.*newer"):
        apply_migrations(database_url, "ours", folder)


@pytest.mark.parametrize(
    "files",
    [
        {"m0002_gap": "SELECT 1"},
        {"m0001_one": "SELECT 1", "m0001_two": "SELECT 1"},
        {"m1_short": "SELECT 1"},
    ],
)
def test_misnumbered_files_are_refused_before_anything_is_done(
    database_url: str, write: Write, files: dict[str, str]
) -> None:
    with pytest.raises(PreconditionFailed, match="migration"):
        apply_migrations(database_url, "ours", write(**files))
    assert _rows(database_url, "SELECT 1 FROM pg_namespace WHERE nspname = 'ours'") == []


def test_empty_folder_is_refused(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(PreconditionFailed, match="no migrations"):
        apply_migrations(database_url, "ours", tmp_path / "absent")


def test_eight_processes_at_once_apply_each_file_once(database_url: str, write: Write) -> None:
    folder = write(
        m0001_first="CREATE TABLE things (id serial)",
        m0002_slow="SELECT pg_sleep(0.3); INSERT INTO things DEFAULT VALUES",
        m0003_last="INSERT INTO things DEFAULT VALUES",
    )
    program = (
        "import sys; from pathlib import Path\n"
        "from shared.storage.migrations import apply_migrations\n"
        "print(len(apply_migrations(sys.argv[1], 'ours', Path(sys.argv[2]))))"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, database_url, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(8)
    ]
    counts = sorted(int(process.communicate(timeout=60)[0]) for process in processes)
    assert counts == [0] * 7 + [3]
    assert _rows(database_url, "SELECT count(*) FROM ours.things") == [(2,)]


def test_database_away_is_unavailable_in_time(write: Write) -> None:
    started = time.monotonic()
    with pytest.raises(Unavailable, match="schema ours"):
        apply_migrations("postgresql://nobody@127.0.0.1:1/none", "ours", write(m0001_a="SELECT 1"))
    assert time.monotonic() - started < 5
