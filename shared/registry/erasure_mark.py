"""Tells those who keep something derived from faces that somebody was erased."""

import secrets
import time

from pydantic import BaseModel, ConfigDict, Field

from shared.registry.records import read_record
from shared.storage.objects import ObjectStore

ERASURE_KEY = "registry/erasure.json"
_RANDOM_BITS = 12


class _Erasure(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    generation: int = Field(ge=1)


def write_erasure_mark(objects: ObjectStore) -> None:
    """Raise the generation, once what was stored of somebody is gone.

    It carries nothing about whom. Each mark writes a number that no other has written,
    a time in microseconds with random bits below: counted up from what was read, two
    marks at the same moment would write the same one, and a reader could miss the second.

    Raises:
        Unavailable: If the store cannot be reached; mark again then.
    """
    moment = time.time_ns() // 1000
    generation = (moment << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    objects.put(ERASURE_KEY, _Erasure(generation=generation).model_dump_json().encode())


def read_erasure_generation(objects: ObjectStore) -> int:
    """Read the generation; 0 before the first erasure.

    Any other number than the one read before means that somebody was erased in between,
    a smaller one too: marks may overtake each other, and clocks differ.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the object does not follow its format.
    """
    mark = read_record(objects, ERASURE_KEY, _Erasure, "erasure mark")
    return mark.generation if mark else 0
