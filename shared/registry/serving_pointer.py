"""Serving pointer: the model version that the embedders must serve."""

from datetime import datetime
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from shared.model.operating_curve import HIGHEST_TARGET
from shared.registry.records import read_record
from shared.storage.objects import ObjectStore

POINTER_KEY = "registry/serving.json"

TargetFmr: TypeAlias = Annotated[float, Field(gt=0, le=HIGHEST_TARGET)]
Prior: TypeAlias = Annotated[float, Field(gt=0, lt=1)]


class ServingPointer(BaseModel):
    """Copy of the latest entry of the serving history, which embedders read without the database.

    Attributes:
        generation: Grows by one with each promotion, rollback or change of the operating point;
            it tells an older pointer from a newer one.
        target_fmr: The operator's target false-match rate; None serves each version at its own
            threshold. Releases before the field refuse a pointer with it.
        prior: Prior probability of a genuine pair.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_version: str
    generation: int = Field(ge=1)
    published_at: datetime
    target_fmr: TargetFmr | None = None
    prior: Prior = 0.5


def read_pointer(objects: ObjectStore) -> ServingPointer | None:
    """Read the pointer; None before the first promotion.

    Raises:
        Unavailable: If the store cannot be reached.
        CorruptData: If the pointer does not follow its format.
    """
    return read_record(objects, POINTER_KEY, ServingPointer, "serving pointer")


def write_pointer(objects: ObjectStore, pointer: ServingPointer) -> None:
    """Write the pointer; the caller must ensure that no older one replaces a newer one."""
    # Releases without the later fields refuse them, and mean the defaults.
    objects.put(POINTER_KEY, pointer.model_dump_json(exclude_defaults=True).encode())
