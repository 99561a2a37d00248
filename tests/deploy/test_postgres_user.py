"""Tests of the Unix user of Postgres, and of its capability."""

import os
import subprocess
from pathlib import Path

import pytest

from deploy.local import postgres_user as postgres_user_module
from deploy.local.child_process import Command
from deploy.local.postgres_user import Capability, UnixUser, find_postgres_user
from shared.errors import PreconditionFailed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another user")

_PROGRAM = Path("/bin/sh")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "data"


def test_no_capability_is_kept_where_the_way_is_open() -> None:
    user = find_postgres_user(_PROGRAM, Path("/tmp/data"))  # noqa: S108
    assert user is not None
    assert user.uid != 0
    assert user.capability is None


def test_the_weakest_capability_that_opens_a_closed_way_is_kept(closed: Path) -> None:
    user = find_postgres_user(_PROGRAM, closed)
    assert user is not None
    assert user.capability is Capability.dac_read_search
    assert closed.parent.stat().st_mode & 0o777 == 0o700


def test_a_closed_way_without_a_capability_is_refused_and_named(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_user_module, "_held_capabilities", lambda: 0)
    with pytest.raises(PreconditionFailed, match=r"nobody cannot enter /.*choose a --dir"):
        find_postgres_user(_PROGRAM, closed)


@pytest.mark.parametrize("capability", [None, *Capability])
def test_a_program_runs_as_the_user_with_that_capability_and_no_other(
    capability: Capability | None,
) -> None:
    command = Command(["/bin/cat", "/proc/self/status"], Path("/"), user=UnixUser(7, 8, capability))
    shown = subprocess.run(command.bound_argv(), capture_output=True, text=True, check=True).stdout
    status = {
        name: value.split() for name, _, value in (s.partition(":") for s in shown.split("\n"))
    }
    assert (status["Uid"], status["Gid"], status["Groups"]) == (["7"] * 4, ["8"] * 4, [])
    mask = 0 if capability is None else 1 << capability
    assert [int(status[f"Cap{kind}"][0], 16) for kind in ("Prm", "Eff", "Amb")] == [mask] * 3
