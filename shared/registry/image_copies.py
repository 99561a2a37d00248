"""Copies of images outside the feedback service, announced in the object store.

A job of the trainer fetches the images of a data snapshot into a folder on its disk. While the
folder exists, an object announces it, so that an erasure is not called finished before the folder
has been removed. The object is written before the first image is fetched and removed after the
folder; a trainer that was killed does both after its next start.
"""

import logging
from typing import Final

from pydantic import BaseModel, ConfigDict

from shared.errors import CorruptData
from shared.registry.records import read_record
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

IMAGE_COPIES: Final = "copies/"


class _Copies(BaseModel):
    model_config = ConfigDict(frozen=True)

    data_snapshot: str | None


def announce_copies(objects: ObjectStore, holder: str, data_snapshot: str | None) -> None:
    """Announce that a holder may have copies of images, or change what it may have.

    Args:
        objects: Object store with the registry.
        holder: Name of the holder, unique for ever.
        data_snapshot: The images of which snapshot; None while that is not known.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    record = _Copies(data_snapshot=data_snapshot)
    objects.put(f"{IMAGE_COPIES}{holder}", record.model_dump_json().encode())


def withdraw_copies(objects: ObjectStore, holder: str) -> None:
    """Say that a holder has no copies any more.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    objects.remove(f"{IMAGE_COPIES}{holder}")


def list_holders(objects: ObjectStore) -> list[str]:
    """List all holders.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    return [found.key.removeprefix(IMAGE_COPIES) for found in objects.list(IMAGE_COPIES)]


def may_hold(objects: ObjectStore, holder: str, data_snapshots: frozenset[str]) -> bool:
    """Say whether a holder may have images of one of some snapshots.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    key = f"{IMAGE_COPIES}{holder}"
    try:
        found = read_record(objects, key, _Copies, "announcement of copies")
    except CorruptData as error:
        logger.warning("%s", error)
        return True
    return found is not None and (
        found.data_snapshot is None or found.data_snapshot in data_snapshots
    )
