"""Which user Postgres runs as: it refuses to be root."""

import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from shared.errors import PreconditionFailed

_CAP_DAC_OVERRIDE = 1
_CAP_DAC_READ_SEARCH = 2


@dataclass(frozen=True)
class Account:
    """A user to change to.

    Attributes:
        capability: Number of the Linux capability to keep, for a user who could not
            otherwise reach the files; None where none is needed.
    """

    uid: int
    gid: int
    capability: int | None = None


def postgres_account(program: Path, folder: Path) -> Account | None:
    """Finds the user for a server that refuses to run as root.

    Nothing is opened up for that user. Where a folder on the way is closed (a checkout below
    ``/root``, for instance) the server keeps one capability to pass through it instead.

    Args:
        program: What the user must be able to run.
        folder: What the user must be able to enter.

    Returns:
        ``nobody``, or None when we are not root and run it as ourselves.

    Raises:
        PreconditionFailed: The user cannot get there, and we hold no capability to pass on.
    """
    if os.geteuid() != 0:
        return None
    entry = pwd.getpwnam("nobody")
    account = Account(entry.pw_uid, entry.pw_gid)
    closed = _closed_parent(program, account) or _closed_parent(folder, account)
    runnable = _grants(program, account, stat.S_IXOTH)
    if closed is None and runnable:
        return account
    capability = _pass_through(may_override_only=not runnable)
    if capability is None:
        raise PreconditionFailed(
            f"Postgres refuses to run as root, and user nobody cannot enter {closed or program}: "
            "choose a --dir (and a checkout) below folders that everyone may enter, "
            "or run as an ordinary user"
        )
    return Account(account.uid, account.gid, capability)


def _closed_parent(path: Path, account: Account) -> Path | None:
    parents = reversed(path.resolve().parents)
    return next((p for p in parents if not _grants(p, account, stat.S_IXOTH)), None)


def _grants(path: Path, account: Account, permission: int) -> bool:
    status = path.stat()
    if status.st_uid == account.uid:
        permission <<= 6
    elif status.st_gid == account.gid:
        permission <<= 3
    return bool(status.st_mode & permission)


def _pass_through(may_override_only: bool) -> int | None:
    """Picks the weakest capability we hold that opens the way."""
    held = _held_capabilities()
    wanted = [_CAP_DAC_OVERRIDE] if may_override_only else [_CAP_DAC_READ_SEARCH, _CAP_DAC_OVERRIDE]
    return next((capability for capability in wanted if held >> capability & 1), None)


def _held_capabilities() -> int:
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    line = next(row for row in status.read_text().splitlines() if row.startswith("CapPrm:"))
    return int(line.split()[1], 16)
