"""Progress lines of benchmarks on stderr; stdout has the results only."""

import sys


def log(line: str) -> None:
    """Write a line to stderr at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
