"""Which candidate the embedders try on live requests, beside the version that serves."""

from pydantic import BaseModel, ConfigDict

from shared.registry.records import read_record
from shared.storage.objects import ObjectStore

SHADOW_KEY = "registry/shadow.json"


class ShadowPointer(BaseModel):
    """A published version that answers a sample of the live requests, to nobody."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_version: str


def read_shadow(objects: ObjectStore) -> ShadowPointer | None:
    """Read which version is tried; None when that is none.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the object does not follow its format.
    """
    return read_record(objects, SHADOW_KEY, ShadowPointer, "shadow pointer")


def write_shadow(objects: ObjectStore, pointer: ShadowPointer) -> None:
    """Let the embedders try this version from now on, instead of any other."""
    objects.put(SHADOW_KEY, pointer.model_dump_json().encode())


def clear_shadow(objects: ObjectStore) -> None:
    """Let the embedders try none."""
    objects.remove(SHADOW_KEY)
