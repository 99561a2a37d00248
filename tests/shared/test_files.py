import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from shared.errors import Unavailable, with_details
from shared.files import clean_scratch, full_disk, open_atomic, write_atomically
from tests.support.details import raises_with_details
from tests.support.full_disk import largest_file


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


def test_a_file_for_which_there_is_no_room_is_unavailable(tmp_path: Path) -> None:
    file = tmp_path / "state"
    file.write_text("old")
    with largest_file(1000), raises_with_details(Unavailable, match=f"no room left .*{tmp_path}"):
        write_atomically(file, "new" * 1000)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_recognized_in_the_errors_of_libraries(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    safetensors = pytest.importorskip("safetensors.torch")
    large = {"weight": torch.zeros(100_000)}
    for save in (torch.save, safetensors.save_file):
        with largest_file(1000), pytest.raises(Exception) as raised:
            save(large, tmp_path / "large")
        assert full_disk(raised.value, tmp_path) is not None
    with Path("/dev/full").open("wb", buffering=0) as full, pytest.raises(OSError) as error:
        full.write(b"x")
    assert "No space left" in with_details(full_disk(error.value, tmp_path))
    assert full_disk(FileNotFoundError("x"), tmp_path) is None


def test_what_a_killed_process_left_is_removed_unless_another_one_works(tmp_path: Path) -> None:
    hold = (
        "import sys, time; from pathlib import Path; from shared.files import clean_scratch\n"
        "with clean_scratch(Path(sys.argv[1]), 'upload-*'):\n"
        "    (Path(sys.argv[1]) / 'upload-1').write_bytes(b'x'); print('up', flush=True)\n"
        "    time.sleep(60)"
    )
    (tmp_path / "job-1").mkdir()
    (tmp_path / "job-1" / "half").touch()
    (tmp_path / "versions").mkdir()
    other = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert other.stdout is not None
    assert other.stdout.readline()
    with clean_scratch(tmp_path, "upload-*", "job-*"):
        assert sorted(path.name for path in tmp_path.iterdir()) == ["job-1", "upload-1", "versions"]
    other.kill()
    other.wait()
    with clean_scratch(tmp_path, "upload-*", "job-*"):
        assert [path.name for path in tmp_path.iterdir()] == ["versions"]
        descriptor = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)
