"""Small JSON objects of the registry that are replaced whole."""

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from shared.errors import CorruptData, NotFound
from shared.storage.objects import ObjectStore

_Record = TypeVar("_Record", bound=BaseModel)


def read_record(objects: ObjectStore, key: str, kind: type[_Record], what: str) -> _Record | None:
    """Read one; None when nothing was ever written there.

    Args:
        objects: Where the registry is.
        key: Its name.
        kind: Its format.
        what: It is called so in the error.

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
        raise CorruptData(f"object {key} is no {what}: {error}") from error
