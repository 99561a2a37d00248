"""Which model version serves, as published to the embedders."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from shared.registry.records import read_record
from shared.storage.objects import ObjectStore

POINTER_KEY = "registry/serving.json"


class ServingPointer(BaseModel):
    """Copy of the trainer's decision that embedders can read without its database.

    Attributes:
        generation: Grows by one with each decision, so that an older one is recognised.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_version: str
    generation: int = Field(ge=1)
    published_at: datetime


def read_pointer(objects: ObjectStore) -> ServingPointer | None:
    """Read what serves; None before the first decision.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the pointer does not follow its format.
    """
    return read_record(objects, POINTER_KEY, ServingPointer, "serving pointer")


def write_pointer(objects: ObjectStore, pointer: ServingPointer) -> None:
    """Publish what serves; the caller makes sure that only the newest decision is written."""
    objects.put(POINTER_KEY, pointer.model_dump_json().encode())
