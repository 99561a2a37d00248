"""JSON records of the registry in the object store."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import CorruptData, NotFound
from shared.storage.objects import ObjectStore

_Record = TypeVar("_Record", bound=BaseModel)


def read_record(objects: ObjectStore, key: str, kind: type[_Record], what: str) -> _Record | None:
    """Read a record; None if it does not exist.

    Args:
        objects: Object store with the registry.
        key: Key of the record.
        kind: Type of the record.
        what: Name of the record for the error, e.g. ``"serving pointer"``.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the object does not follow its format.
    """
    try:
        data = objects.get(key)
    except NotFound:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise CorruptData(f"object {key} is not a valid {what}", detail=str(error)) from error
