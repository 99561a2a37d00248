"""Stored results of the serving benchmark's sections."""

from pathlib import Path
from typing import Any

from tests.benchmarks.results import ResultFile, digest_files

_ROOT = Path(__file__).parents[3]
# The sources that figures depend on. When one of them changes, sections are measured again.
_SOURCES = (
    "services/embedder/**/*.py",
    "shared/decoding/*.py",
    "shared/model/**/*.py",
    "shared/rpc/**/*.py",
    "tests/benchmarks/learning/figures.py",
    "tests/benchmarks/serving/**/*.py",
)


class SectionStore:
    """Figures of finished sections, by the section's name.

    Args:
        file: Where they are stored.
        quick: Whether this is a quick run, whose figures are never used by a full run.
    """

    def __init__(self, file: Path, *, quick: bool) -> None:
        self._results = ResultFile(file)
        self._state = f"{'quick ' if quick else ''}{digest_files(_source_files())}"

    def get(self, section: str) -> dict[str, Any] | None:
        """Give the figures, if they were measured with the current sources."""
        stored = self._results.get(section)
        return stored["figures"] if stored and stored["state"] == self._state else None

    def put(self, section: str, figures: dict[str, Any]) -> None:
        self._results.put(section, {"state": self._state, "figures": figures})


def _source_files() -> list[Path]:
    files = (file for pattern in _SOURCES for file in _ROOT.glob(pattern))
    return [file for file in files if not file.name.startswith("test_")]
