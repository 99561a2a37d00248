"""Tests of check-breaking.sh in a repository, a clone, a shallow clone and without git."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROTO = "protos/magface/v1/image.proto"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=ada", "-c", "user.email=ada@localhost")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


def commit(folder: Path) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "a commit")


def check(folder: Path) -> tuple[int, str]:
    script = [folder / "deploy/check-breaking.sh", Path(sys.executable).parent]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two commits; the second adds a field to a message."""
    folder = tmp_path / "repository"
    for path in ("buf.yaml", PROTO, "deploy/check-breaking.sh"):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / path, folder / path)
    git(folder.parent, "init", "-b", "main", str(folder))
    commit(folder)
    _edit(folder, "  float y = 2;\n", "  float y = 2;\n  float z = 3;\n")
    commit(folder)
    return folder


def _edit(folder: Path, old: str, new: str) -> None:
    proto = folder / PROTO
    assert old in proto.read_text()
    proto.write_text(proto.read_text().replace(old, new, 1))


def test_a_field_may_be_added_and_none_removed(repository: Path):
    assert check(repository)[0] == 0
    _edit(repository, "  float y = 2;\n", "")
    code, output = check(repository)
    assert (code, '"2" with name "y" on message "Point" was deleted' in output) == (1, True)
    # The same with the change committed, as on a server that tests each commit of main.
    commit(repository)
    assert check(repository)[0] == 1


def test_a_branch_is_compared_with_where_it_left_the_clones_origin(
    repository: Path, tmp_path: Path
):
    clone = tmp_path / "clone"
    git(tmp_path, "clone", str(repository), str(clone))
    assert check(clone)[0] == 0
    git(clone, "switch", "-c", "branch")
    _edit(clone, "  float z = 3;\n", "")
    commit(clone)
    git(clone, "commit", "--allow-empty", "-m", "another")
    code, output = check(clone)
    assert (code, 'name "z"' in output) == (1, True)


def test_without_an_earlier_commit_it_says_so(repository: Path, tmp_path: Path):
    shallow = tmp_path / "shallow"
    git(tmp_path, "clone", "--depth=1", f"file://{repository}", str(shallow))
    bare = tmp_path / "bare"
    shutil.copytree(repository, bare, ignore=shutil.ignore_patterns(".git"))
    for folder, reason in ((shallow, "has no parent here"), (bare, "no git repository")):
        code, output = check(folder)
        assert code == 0
        assert reason in output
        assert "nothing to compare with" in output
