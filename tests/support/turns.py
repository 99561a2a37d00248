"""Turns of tests: one that measures times runs while no other test of the same run does."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(folder: Path, *, alone: bool) -> Iterator[None]:
    """Wait for a turn, and hold it during the block.

    Args:
        folder: The same one for all processes of the run.
        alone: Whether nothing else may run meanwhile.
    """
    with (folder / ".next").open("w") as following, (folder / ".turn").open("w") as running:
        # Who waits to be alone keeps others from starting, so that the wait ends.
        fcntl.flock(following, fcntl.LOCK_EX)
        fcntl.flock(running, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(following, fcntl.LOCK_UN)
        yield
