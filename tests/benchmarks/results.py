"""Stored results, with which an interrupted benchmark continues where it stopped."""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from shared.files import write_atomically


class ResultFile:
    """A JSON file of results by key.

    Args:
        file: Created by the first `put`.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._results = self._read()

    def get(self, key: str) -> dict[str, Any] | None:
        return self._results.get(key)

    def put(self, key: str, result: Mapping[str, Any]) -> None:
        # Another process may have added results since this one read the file.
        self._results = self._read() | {key: dict(result)}
        write_atomically(self._file, json.dumps(self._results, indent=1))

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._file.exists():
            return {}
        results: dict[str, dict[str, Any]] = json.loads(self._file.read_text())
        return results


def digest_files(files: Iterable[Path]) -> str:
    """Digest the contents of files: 12 hexadecimal digits."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def digest_modules(*packages: str) -> str:
    """Digest the sources of the modules in these packages that this process has loaded."""
    return digest_files(
        {
            Path(file)
            for name, module in list(sys.modules.items())
            if (file := getattr(module, "__file__", None))
            and any(f"{name}.".startswith(f"{package}.") for package in packages)
        }
    )
