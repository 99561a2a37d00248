"""Watchdog: ends a process that is stuck, whatever it is stuck in."""

import asyncio
import faulthandler
import logging
import os
import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

logger = logging.getLogger(__name__)

# An event loop that does not run for so long answers nobody.
_STUCK_S: Final = 60.0
_LOOK_EVERY_S: Final = 5.0
# After this the process is ended even if no Python code can run.
_LAST_RESORT_S: Final = 1.0


async def watch_loop() -> NoReturn:
    """End the process when the event loop does not run for a minute; runs until cancelled.

    The timer is a thread of `faulthandler` that needs no Python code to run. It writes the stacks
    of all threads to stderr.
    """
    try:
        while True:
            faulthandler.dump_traceback_later(_STUCK_S, exit=True)
            await asyncio.sleep(_LOOK_EVERY_S)
    finally:
        faulthandler.cancel_dump_traceback_later()


def end_within(seconds: float) -> None:
    """End the process and its children after so many seconds, unless it has ended by then.

    Args:
        seconds: From now.
    """
    timer = threading.Timer(seconds, _end, (seconds,))
    timer.daemon = True
    timer.start()
    faulthandler.dump_traceback_later(seconds + _LAST_RESORT_S, exit=True)


def _end(seconds: float) -> None:
    logger.critical("something is stuck: the process is ended %g s after it was to stop", seconds)
    faulthandler.dump_traceback()
    _kill_children()
    os._exit(1)


def _kill_children() -> None:
    """Kill the children of this process and what shares their process groups, on Linux."""
    own_group = os.getpgrp()
    for file in Path("/proc/self/task").glob("*/children"):
        for child in map(int, file.read_text().split()):
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
                if (group := os.getpgid(child)) != own_group:
                    os.killpg(group, signal.SIGKILL)
