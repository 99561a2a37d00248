"""What tests ask about processes that are not their children."""

import psutil


def lives(pid: int) -> bool:
    """Whether a process has not ended; init may take its time to collect one that has."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
