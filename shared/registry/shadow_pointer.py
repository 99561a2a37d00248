"""Shadow pointer: the candidate that the embedders evaluate on sampled live traffic."""

from pydantic import BaseModel, ConfigDict

from shared.registry.records import read_record
from shared.storage.objects import ObjectStore

SHADOW_KEY = "registry/shadow.json"


class ShadowPointer(BaseModel):
    """A published version that computes a sample of the live requests without answering them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_version: str


def read_shadow(objects: ObjectStore) -> ShadowPointer | None:
    """Read the pointer; None when no candidate is evaluated.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the object does not follow its format.
    """
    return read_record(objects, SHADOW_KEY, ShadowPointer, "shadow pointer")


def write_shadow(objects: ObjectStore, pointer: ShadowPointer) -> None:
    """Make the embedders evaluate this version from now on."""
    objects.put(SHADOW_KEY, pointer.model_dump_json().encode())


def clear_shadow(objects: ObjectStore) -> None:
    """Make the embedders stop evaluating a candidate."""
    objects.remove(SHADOW_KEY)
