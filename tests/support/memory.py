"""Memory of a process with all that it started."""

import threading
from pathlib import Path
from typing import Self

import psutil

_PERIOD_S = 0.05


def tree_bytes(pid: int) -> int:
    """Sum the proportional memory (PSS) of a process and its descendants; Linux only."""
    try:
        root = psutil.Process(pid)
        family = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    return sum(_pss(process.pid) for process in family)


def _pss(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))


class MemoryWatch:
    """Measures the most memory that a process and its descendants take inside a block.

    Args:
        pid: Of the process.

    Attributes:
        most: Bytes.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.most = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(_PERIOD_S):
            self.most = max(self.most, tree_bytes(self._pid))
