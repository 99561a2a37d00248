"""Images whose objects are known to be missing or damaged."""

import logging
from typing import Final

from prometheus_client import Gauge

logger = logging.getLogger(__name__)

# In a line of the log.
_NAMED: Final = 3
_DAMAGED: Final = Gauge(
    "magface_feedback_damaged_images",
    "Images with a row whose object is known to be missing or damaged",
)


class DamagedImages:
    """The images, by hex SHA-256, that this process knows of; each is logged once.

    They leave when they are written again, found to be intact, or removed.
    """

    def __init__(self) -> None:
        self._hashes: set[str] = set()

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._hashes

    def __len__(self) -> int:
        return len(self._hashes)

    def starting_with(self, prefix: str) -> list[str]:
        """List those whose hash starts with some digits."""
        return [sha256 for sha256 in self._hashes if sha256.startswith(prefix)]

    def add(self, *hashes: str) -> None:
        """Add images."""
        new = set(hashes) - self._hashes
        if new:
            self._hashes |= new
            _DAMAGED.set(len(self))
            logger.error(
                "the objects of %d images are missing or damaged, %s; send the images again or"
                " restore the bucket",
                len(new),
                ", ".join(sorted(new)[:_NAMED]) + (" …" if len(new) > _NAMED else ""),
            )

    def discard(self, *hashes: str) -> None:
        """Remove images."""
        self._hashes -= set(hashes)
        _DAMAGED.set(len(self))
