"""What served last, kept on disk for a start without the store."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from services.embedder.models.decision_rule import NO_TARGET, FmrTarget
from shared.files import write_atomically

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class VersionAtTarget:
    """A model version and the operating point that it serves at."""

    model_version: str
    target: FmrTarget = NO_TARGET


_RECORD: Final = TypeAdapter(VersionAtTarget)


class LastServed:
    """Keeps the last serving version and its operating point on disk.

    Args:
        path: A small file: the version's name, as in earlier releases, or with an operating point
            a JSON object.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> VersionAtTarget | None:
        """Read what served last; None if there is nothing, or the file cannot be used."""
        try:
            text = self._path.read_text().strip()
            if text.startswith("{"):
                return _RECORD.validate_json(text)
        except FileNotFoundError:
            return None
        except (OSError, UnicodeError, ValidationError) as error:
            # Its threshold is not known, so serving it anyway could break the operator's target.
            _log.warning(
                "cannot read %s; nothing serves until the store is reached: %s", self._path, error
            )
            return None
        return VersionAtTarget(text) if text else None

    def write(self, served: VersionAtTarget) -> None:
        text = served.model_version
        if served.target != NO_TARGET:
            text = _RECORD.dump_json(served).decode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._path, text)
        except OSError as error:
            _log.warning(
                "cannot write %s; a start without the store will not serve %s: %s",
                self._path,
                served.model_version,
                error,
            )
