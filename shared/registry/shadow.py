"""Which candidate the embedders try on live requests, beside the version that serves."""

from pydantic import BaseModel, ConfigDict, ValidationError

from shared.errors import CorruptData, NotFound
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
    try:
        data = objects.get(SHADOW_KEY)
    except NotFound:
        return None
    try:
        return ShadowPointer.model_validate_json(data)
    except ValidationError as error:
        raise CorruptData(f"object {SHADOW_KEY} is no shadow pointer: {error}") from error


def write_shadow(objects: ObjectStore, pointer: ShadowPointer) -> None:
    """Let the embedders try this version from now on, instead of any other."""
    objects.put(SHADOW_KEY, pointer.model_dump_json().encode())


def clear_shadow(objects: ObjectStore) -> None:
    """Let the embedders try none."""
    objects.remove(SHADOW_KEY)
