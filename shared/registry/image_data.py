"""Registry of all stored data, and of how an erasure removes what is derived from an image.

Whatever writes a new kind of object or adds a table registers it here; tests fail for one that is
not registered, and search all that is stored for an erased image.

Besides what is stored, memory and temporary files hold images for a time: the cache of the
embedders, which the erasure mark clears, and the folders of jobs, which `image_copies` announces.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from shared.errors import CorruptData, NotFound
from shared.registry.evaluation_pages import EVALUATION_PAGES, images_on_page, page_without
from shared.registry.image_copies import IMAGE_COPIES
from shared.registry.label_reports import LABEL_REPORTS, images_in_report, report_without
from shared.registry.version_store import VERSIONS_PREFIX
from shared.storage.objects import IMAGES_PREFIX, ObjectStore

logger = logging.getLogger(__name__)


class Erasure(Enum):
    """How an erasure treats a table or a kind of object."""

    # It holds neither pixels nor hashes nor embeddings of images of the feedback service.
    NOTHING_TO_ERASE = auto()
    # It is deleted with the image.
    DELETED = auto()
    # The image is taken out, and the rest stays; see `EditedKind`.
    EDITED = auto()
    # The last place that names an image that is being erased; empty after the erasure.
    LIST_OF_REMOVALS = auto()


@dataclass(frozen=True)
class EditedKind:
    """Objects that an image can be taken out of.

    Attributes:
        prefix: Of their keys.
        images_in: Returns the SHA-256 of all images in the content of an object; raises
            ValueError if these cannot be told.
        without: Returns the content without some images.
    """

    prefix: str
    images_in: Callable[[bytes], frozenset[bytes]]
    without: Callable[[bytes, Collection[bytes]], bytes]


EDITED_KINDS: Final = (
    EditedKind(LABEL_REPORTS, images_in_report, report_without),
    EditedKind(EVALUATION_PAGES, images_on_page, page_without),
)

# By the prefix of their keys.
OBJECTS: Final = {
    IMAGES_PREFIX: Erasure.DELETED,
    **{kind.prefix: Erasure.EDITED for kind in EDITED_KINDS},
    # Names of jobs and snapshots.
    IMAGE_COPIES: Erasure.NOTHING_TO_ERASE,
    # Weights, and golden crops, which are the bundled ones.
    VERSIONS_PREFIX: Erasure.NOTHING_TO_ERASE,
    # Weights of running trainings.
    "jobs/": Erasure.NOTHING_TO_ERASE,
    # Crops from a folder of the operator.
    "reference/": Erasure.NOTHING_TO_ERASE,
    # Checkpoints.
    "uploads/": Erasure.NOTHING_TO_ERASE,
    # Pointers, heartbeats and the erasure mark.
    "registry/": Erasure.NOTHING_TO_ERASE,
}

TABLES: Final = {
    "feedback.images": Erasure.DELETED,
    "feedback.pairs": Erasure.DELETED,
    "feedback.labels": Erasure.DELETED,
    "feedback.pair_consensus": Erasure.DELETED,
    "feedback.image_subjects": Erasure.DELETED,
    "feedback.image_uses": Erasure.DELETED,
    "feedback.image_uploads": Erasure.DELETED,
    "feedback.embeddings": Erasure.DELETED,
    "feedback.unembeddable": Erasure.DELETED,
    "feedback.candidates": Erasure.DELETED,
    "feedback.leases": Erasure.DELETED,
    "feedback.removals": Erasure.LIST_OF_REMOVALS,
    # Digests with a secret key.
    "feedback.tombstones": Erasure.NOTHING_TO_ERASE,
    "feedback.erasure_key": Erasure.NOTHING_TO_ERASE,
    # Counts, and what the requester wrote.
    "feedback.erasures": Erasure.NOTHING_TO_ERASE,
    "feedback.held_erasures": Erasure.NOTHING_TO_ERASE,
    "feedback.sweeps": Erasure.NOTHING_TO_ERASE,
    "feedback.erasure_snapshots": Erasure.NOTHING_TO_ERASE,
    "feedback.audit": Erasure.NOTHING_TO_ERASE,
    "feedback.removal_epoch": Erasure.NOTHING_TO_ERASE,
    "feedback.annotators": Erasure.NOTHING_TO_ERASE,
    "feedback.snapshots": Erasure.NOTHING_TO_ERASE,
    "feedback.consensus_rule": Erasure.NOTHING_TO_ERASE,
    "feedback.counters": Erasure.NOTHING_TO_ERASE,
    # Hashes of requests, and ids of leases.
    "feedback.idempotency_keys": Erasure.NOTHING_TO_ERASE,
    "feedback.pool_versions": Erasure.NOTHING_TO_ERASE,
    "feedback.migrations": Erasure.NOTHING_TO_ERASE,
    # Messages of jobs have hashes cut short.
    "trainer.jobs": Erasure.NOTHING_TO_ERASE,
    "trainer.job_events": Erasure.NOTHING_TO_ERASE,
    "trainer.versions": Erasure.NOTHING_TO_ERASE,
    "trainer.serving_history": Erasure.NOTHING_TO_ERASE,
    "trainer.operating_points": Erasure.NOTHING_TO_ERASE,
    # Figures over all pairs.
    "trainer.evaluations": Erasure.NOTHING_TO_ERASE,
    "trainer.verdicts": Erasure.NOTHING_TO_ERASE,
    "trainer.idempotency_keys": Erasure.NOTHING_TO_ERASE,
    "trainer.migrations": Erasure.NOTHING_TO_ERASE,
}


@dataclass(frozen=True)
class DerivedObject:
    """An object of an `EditedKind`, as it is stored.

    Attributes:
        images: SHA-256 of the images in it.
    """

    key: str
    content: bytes
    images: frozenset[bytes]
    kind: EditedKind


def read_derived(objects: ObjectStore) -> Iterator[DerivedObject]:
    """Yield every object that images can be taken out of.

    An object that does not follow its format is removed, because the images in it are unknown.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    for kind in EDITED_KINDS:
        for found in objects.list(kind.prefix):
            try:
                content = objects.get(found.key)
                images = kind.images_in(content)
            except NotFound:
                continue
            except (CorruptData, ValueError) as error:
                logger.warning("object %s is removed, its images are unknown: %s", found.key, error)
                objects.remove(found.key)
            else:
                yield DerivedObject(found.key, content, images, kind)


def remove_images(objects: ObjectStore, found: DerivedObject, hashes: Collection[bytes]) -> None:
    """Take images out of an object.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    if not found.images.isdisjoint(hashes):
        objects.put(found.key, found.kind.without(found.content, hashes))
