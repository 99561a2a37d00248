"""Child process: does one task and reports the peak of its memory.

Reads the task as JSON from stdin, and writes its figures as JSON to the file that is its argument.
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from shared.errors import Unavailable
from tests.benchmarks.full_size.tasks import Figures, run_task


def run_in_child(task: str, **arguments: Any) -> Figures:
    """Do a task in a process of its own.

    Args:
        task: See `run_task`.
        arguments: See `run_task`; JSON must be able to hold them.

    Returns:
        Its figures, and as ``peak_bytes`` the most resident memory of the process.

    Raises:
        Unavailable: The process failed; its own message is on stderr.
    """
    with TemporaryDirectory() as folder:
        result = Path(folder) / "figures.json"
        done = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.full_size.child", result],
            input=json.dumps({"task": task, **arguments}),
            text=True,
            check=False,
        )
        if done.returncode:
            killed = " (killed, perhaps for memory)" if done.returncode == -9 else ""
            raise Unavailable(f"the task {task} exited with {done.returncode}{killed}")
        figures: Figures = json.loads(result.read_text())
    return figures


def peak_bytes() -> int:
    """Return the most resident memory that this process has had; Linux only."""
    # Not getrusage: its figure is inherited from the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM:"))
    return 1024 * int(peak.split()[1])


def _main() -> None:
    figures = run_task(**json.loads(sys.stdin.read()))
    text = json.dumps({**figures, "peak_bytes": peak_bytes()})
    Path(sys.argv[1]).write_text(text)


if __name__ == "__main__":
    _main()
