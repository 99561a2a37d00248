"""Threads of low priority, for work that must not delay requests."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

# Beside a thread of normal priority it gets about a tenth of a core.
_NICENESS: Final = 10


def background_thread(name: str) -> ThreadPoolExecutor:
    """Start an executor with one thread of low priority.

    Args:
        name: Of the thread.
    """
    return ThreadPoolExecutor(1, name, initializer=_lower_priority)


def _lower_priority() -> None:
    # Linux has a priority per thread; elsewhere the thread keeps the process's.
    with suppress(OSError):
        niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
