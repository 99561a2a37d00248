"""Serving pointer: the model version that the embedders must serve."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from shared.registry.records import read_record
from shared.storage.objects import ObjectStore

POINTER_KEY = "registry/serving.json"


class ServingPointer(BaseModel):
    """Copy of the latest entry of the serving history, which embedders read without the database.

    Attributes:
        generation: Grows by one with each promotion or rollback; it tells an older pointer from
            a newer one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_version: str
    generation: int = Field(ge=1)
    published_at: datetime


def read_pointer(objects: ObjectStore) -> ServingPointer | None:
    """Read the pointer; None before the first promotion.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the pointer does not follow its format.
    """
    return read_record(objects, POINTER_KEY, ServingPointer, "serving pointer")


def write_pointer(objects: ObjectStore, pointer: ServingPointer) -> None:
    """Write the pointer; the caller must ensure that no older one replaces a newer one."""
    objects.put(POINTER_KEY, pointer.model_dump_json().encode())
