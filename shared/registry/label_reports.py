"""Label reports of jobs: suspected labels and images that were left out, by their hashes."""

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
    """A label report as it is stored.

    Attributes:
        key: Its key in the object store.
        content: Suspected pairs, images that were left out, and figures, as parsed JSON.
        images: SHA-256 of the images in it.
    """

    key: str
    content: dict[str, Any]
    images: frozenset[bytes]


def read_reports(objects: ObjectStore) -> Iterator[StoredReport]:
    """Yield every report.

    A report that does not follow its format is removed, because the images in it are unknown.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    for found in objects.list(LABEL_REPORTS):
        try:
            content = json.loads(objects.get(found.key))
            images = _images_in(content)
        except NotFound:
            continue
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("object %s is not a label report and is removed: %s", found.key, error)
            objects.remove(found.key)
            continue
        yield StoredReport(found.key, content, images)


def remove_images(objects: ObjectStore, report: StoredReport, hashes: Collection[bytes]) -> None:
    """Remove erased images and pairs with them from a report; the figures stay unchanged.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    erased = {sha256.hex() for sha256 in hashes}
    if report.images.isdisjoint(hashes):
        return
    suspects = [
        one
        for one in report.content["suspects"]
        if erased.isdisjoint((one["sha256_a"], one["sha256_b"]))
    ]
    left_out = [one for one in report.content.get("left_out", ()) if one["sha256"] not in erased]
    changed = report.content | {"suspects": suspects, "left_out": left_out}
    objects.put(report.key, json.dumps(changed).encode())


def _images_in(content: dict[str, Any]) -> frozenset[bytes]:
    suspects = [one[side] for one in content["suspects"] for side in ("sha256_a", "sha256_b")]
    left_out = [one["sha256"] for one in content.get("left_out", ())]
    return frozenset(map(bytes.fromhex, [*suspects, *left_out]))
