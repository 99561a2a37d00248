"""Erasure mark: tells processes that cache data derived from faces to drop it."""

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
    """Write a new generation, after the stored data of a person has been removed.

    The mark says nothing about the person. Each generation is unique: a time in microseconds
    followed by random bits. Were it the previous generation plus one, two concurrent marks would
    write the same number, and a reader could miss the second.

    Raises:
        Unavailable: If the store cannot be reached; write the mark again then.
    """
    moment = time.time_ns() // 1000
    generation = (moment << _RANDOM_BITS) | secrets.randbits(_RANDOM_BITS)
    objects.put(ERASURE_KEY, _Erasure(generation=generation).model_dump_json().encode())


def read_erasure_generation(objects: ObjectStore) -> int:
    """Read the generation; 0 before the first erasure.

    A generation that differs from the previous one means that somebody was erased in between.
    It may be smaller: marks can be written out of order, and clocks differ.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the object does not follow its format.
    """
    mark = read_record(objects, ERASURE_KEY, _Erasure, "erasure mark")
    return mark.generation if mark else 0
