"""Promises about the user that Postgres runs as."""

import os
from pathlib import Path

import pytest

from deploy.local import account as account_module
from deploy.local.account import postgres_account
from shared.errors import PreconditionFailed

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes to another user")

_PROGRAM = Path("/bin/sh")


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "data"


def test_no_capability_is_kept_where_the_way_is_open() -> None:
    account = postgres_account(_PROGRAM, Path("/tmp/data"))  # noqa: S108
    assert account is not None
    assert account.uid != 0
    assert account.capability is None


def test_the_weakest_capability_that_opens_a_closed_way_is_kept(closed: Path) -> None:
    account = postgres_account(_PROGRAM, closed)
    assert account is not None
    assert account.capability == account_module._CAP_DAC_READ_SEARCH
    assert closed.parent.stat().st_mode & 0o777 == 0o700


def test_a_closed_way_without_a_capability_is_refused_and_named(
    closed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_module, "_held_capabilities", lambda: 0)
    with pytest.raises(PreconditionFailed, match=r"nobody cannot enter /.*choose a --dir"):
        postgres_account(_PROGRAM, closed)
