from pathlib import Path

import pytest

from shared.files import open_atomic, write_atomically


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_atomically(file, "old")
    write_atomically(file, "new")
    assert file.read_text() == "new"
    assert list(tmp_path.iterdir()) == [file]


def test_the_old_content_stays_until_the_block_ends(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_text("old")
    with open_atomic(file) as fresh:
        fresh.write(b"new")
        fresh.flush()
        assert file.read_text() == "old"
    assert file.read_text() == "new"


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_text("old")
    with pytest.raises(RuntimeError), open_atomic(file) as fresh:
        fresh.write(b"half")
        raise RuntimeError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_secret_is_never_readable_by_others(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.touch(0o644)
    with open_atomic(file, 0o600):
        assert [each.stat().st_mode & 0o077 for each in tmp_path.glob(".*")] == [0]
    assert file.stat().st_mode & 0o777 == 0o600
