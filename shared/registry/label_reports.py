"""What trainings suspected of the labels: objects that name images by their hash."""

import json
import logging
from collections.abc import Collection

from shared.errors import NotFound
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

LABEL_REPORTS = "suspects/"


def forget_images(objects: ObjectStore, hashes: Collection[str]) -> None:
    """Take the pairs of erased images out of every report; the figures stay as they were.

    A report that does not follow its format, so that nobody can tell what it names, is removed.
    Only one may do so at a time.

    Args:
        objects: Where the reports are.
        hashes: Hex SHA-256 of the images.

    Raises:
        Unavailable: If the store cannot be reached; some reports may be done by then.
    """
    erased = set(hashes)
    for found in objects.list(LABEL_REPORTS):
        try:
            report = json.loads(objects.get(found.key))
            suspects = report["suspects"]
            kept = [
                one for one in suspects if erased.isdisjoint((one["sha256_a"], one["sha256_b"]))
            ]
        except NotFound:
            continue
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s is no report on labels and is removed: %s", found.key, error)
            objects.remove(found.key)
            continue
        if len(kept) < len(suspects):
            objects.put(found.key, json.dumps(report | {"suspects": kept}).encode())
