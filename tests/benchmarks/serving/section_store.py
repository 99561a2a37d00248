"""Finished sections of the serving benchmark in a file, so that an interrupted run goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from shared.files import write_atomically

_ROOT = Path(__file__).parents[3]
# What a figure depends on: another state of these measures anew.
_SOURCES = (
    "services/embedder/**/*.py",
    "shared/model/**/*.py",
    "shared/rpc/*.py",
    "tests/benchmarks/learning/figures.py",
    "tests/benchmarks/serving/**/*.py",
)


class KeptSections:
    """Finished sections by name.

    Args:
        file: Where they are kept.
        quick: Sections of a quick run are never taken for those of a real one.
    """

    def __init__(self, file: Path, *, quick: bool) -> None:
        self._file = file
        self._state = f"{'quick ' if quick else ''}{_digest_sources()}"
        self._kept: dict[str, dict[str, Any]] = (
            json.loads(file.read_text()) if file.exists() else {}
        )

    def get(self, section: str) -> dict[str, Any] | None:
        """The section as it was measured with the sources of today."""
        kept = self._kept.get(section)
        return kept["figures"] if kept and kept["state"] == self._state else None

    def put(self, section: str, figures: dict[str, Any]) -> None:
        self._kept[section] = {"state": self._state, "figures": figures}
        write_atomically(self._file, json.dumps(self._kept, indent=1))


def _digest_sources() -> str:
    digest = hashlib.sha256()
    for pattern in _SOURCES:
        for file in sorted(_ROOT.glob(pattern)):
            if not file.name.startswith("test_"):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:12]
