"""Threads for work that must not be felt by those who wait for an answer."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final

# Against a thread of normal priority it gets about a tenth of a core.
_NICENESS: Final = 10


def background_thread(name: str) -> ThreadPoolExecutor:
    """One thread that gives way to all others of this process.

    Args:
        name: Of the thread.
    """
    return ThreadPoolExecutor(1, name, initializer=_step_back)


def _step_back() -> None:
    # Linux knows the priority of a thread; elsewhere it keeps the process's.
    with suppress(OSError):
        niceness = max(_NICENESS, os.getpriority(os.PRIO_PROCESS, 0))
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
