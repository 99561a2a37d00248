"""Runs a program that must not outlive the process that started it.

``python -I -S tether.py --parent PID [--signal N] [--uid U --gid G [--capability C]] PROGRAM ...``

Run by its path with a bare interpreter (some 15 ms), because `subprocess` can do neither the
one nor the other without `preexec_fn`, which may deadlock in a process with threads.
"""

import argparse
import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522


def _check(result: int, what: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def _become(libc: ctypes.CDLL, uid: int, gid: int, capability: int | None) -> None:
    """Leaves root for ``uid``, keeping one capability if asked to."""
    if capability is not None:
        _check(libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "PR_SET_KEEPCAPS")
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if capability is None:
        return
    bit = 1 << capability
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    # Two words each of effective, permitted, inheritable; the second words cover 32 and above.
    sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
    _check(libc.capset(header, sets), "capset")
    raised = libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, capability, 0, 0)
    _check(raised, "PR_CAP_AMBIENT_RAISE")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--signal", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--uid", type=int)
    parser.add_argument("--gid", type=int)
    parser.add_argument("--capability", type=int)
    parser.add_argument("program", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if options.uid is not None:
            _become(libc, options.uid, options.gid, options.capability)
        # After the change of user, which clears it.
        _check(libc.prctl(_PR_SET_PDEATHSIG, options.signal, 0, 0, 0), "PR_SET_PDEATHSIG")
    if os.getppid() != options.parent:
        sys.exit("the starting process has already ended")
    try:
        os.execv(options.program[0], options.program)  # noqa: S606
    except OSError as error:
        sys.exit(f"cannot run {options.program[0]}: {error.strerror}")


if __name__ == "__main__":
    main()
