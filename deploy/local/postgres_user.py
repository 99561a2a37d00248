"""The Unix user that Postgres runs as when the stack runs as root."""

import os
import pwd
import stat
import sys
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from shared.errors import PreconditionFailed


class Capability(IntEnum):
    """Linux capabilities that open folders to a user, by their number in the kernel."""

    dac_override = 1
    dac_read_search = 2


@dataclass(frozen=True)
class UnixUser:
    """A user to run a program as.

    Attributes:
        capability: Kept by the program, for a user who cannot reach its files otherwise; None
            where none is needed.
    """

    uid: int
    gid: int
    capability: Capability | None = None


def find_postgres_user(program: Path, folder: Path) -> UnixUser | None:
    """Finds the user for a server that refuses to run as root.

    No permissions are changed for that user. Where a parent folder is closed (a checkout below
    ``/root``, for instance), the server keeps one capability to pass through it instead.

    Args:
        program: What the user must be able to run.
        folder: What the user must be able to enter.

    Returns:
        ``nobody``; None when this process does not run as root.

    Raises:
        PreconditionFailed: The user cannot reach the files, and this process holds no
            capability to pass on.
    """
    if os.geteuid() != 0:
        return None
    if sys.platform != "linux":
        raise PreconditionFailed("Postgres refuses to run as root: run as an ordinary user")
    entry = pwd.getpwnam("nobody")
    user = UnixUser(entry.pw_uid, entry.pw_gid)
    closed = _closed_parent(program, user) or _closed_parent(folder, user)
    runnable = _grants(program, user, stat.S_IXOTH)
    if closed is None and runnable:
        return user
    capability = _weakest_capability(may_override_only=not runnable)
    if capability is None:
        raise PreconditionFailed(
            f"Postgres refuses to run as root, and user nobody cannot enter {closed or program}: "
            "choose a --dir (and a checkout) below folders that everyone may enter, "
            "or run as an ordinary user"
        )
    return UnixUser(user.uid, user.gid, capability)


def _closed_parent(path: Path, user: UnixUser) -> Path | None:
    parents = reversed(path.resolve().parents)
    return next((p for p in parents if not _grants(p, user, stat.S_IXOTH)), None)


def _grants(path: Path, user: UnixUser, permission: int) -> bool:
    status = path.stat()
    if status.st_uid == user.uid:
        permission <<= 6
    elif status.st_gid == user.gid:
        permission <<= 3
    return bool(status.st_mode & permission)


def _weakest_capability(may_override_only: bool) -> Capability | None:
    """Picks the weakest capability that this process holds and that opens the files."""
    held = _held_capabilities()
    wanted = [Capability.dac_override]
    if not may_override_only:
        wanted.insert(0, Capability.dac_read_search)
    return next((capability for capability in wanted if held >> capability & 1), None)


def _held_capabilities() -> int:
    """Reads the permitted set as a bit mask; needs Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    line = next(row for row in lines if row.startswith("CapPrm:"))
    return int(line.split()[1], 16)
