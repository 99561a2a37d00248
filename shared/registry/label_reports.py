"""What trainings suspected of the labels: objects that name images by their hash."""

import json
import logging
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from shared.errors import NotFound
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

LABEL_REPORTS = "suspects/"


@dataclass(frozen=True)
class StoredReport:
    """A report as it is stored.

    Attributes:
        key: Its name.
        content: What it says; the pairs it suspects, and figures.
        images: SHA-256 of the images that it names.
    """

    key: str
    content: dict[str, Any]
    images: frozenset[bytes]


def read_reports(objects: ObjectStore) -> Iterator[StoredReport]:
    """Yield every report.

    A report that does not follow its format, so that nobody can tell what it names, is removed.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    for found in objects.list(LABEL_REPORTS):
        try:
            content = json.loads(objects.get(found.key))
            images = frozenset(
                bytes.fromhex(one[side])
                for one in content["suspects"]
                for side in ("sha256_a", "sha256_b")
            )
        except NotFound:
            continue
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is no report on labels and is removed: %s", found.key, error)
            objects.remove(found.key)
            continue
        yield StoredReport(found.key, content, images)


def remove_images(objects: ObjectStore, report: StoredReport, hashes: Collection[bytes]) -> None:
    """Take the pairs of erased images out of a report; the figures stay as they were.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    erased = {sha256.hex() for sha256 in hashes}
    kept = [
        one
        for one in report.content["suspects"]
        if erased.isdisjoint((one["sha256_a"], one["sha256_b"]))
    ]
    if len(kept) < len(report.content["suspects"]):
        objects.put(report.key, json.dumps(report.content | {"suspects": kept}).encode())
