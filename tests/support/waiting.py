"""Polling until a condition holds."""

import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], timeout_s: float) -> None:
    """Returns as soon as the condition holds; fails the test when it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)
