"""Which embedders there are, and what each of them serves, as they say themselves.

Each writes one small object every two seconds. The alternative, to ask every address behind
the embedder's name, sees one of them where the name is a load balancer's, and needs a way from
the trainer to each embedder; the object store all of them reach in any case.
"""

import logging
from typing import Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from shared.errors import NotFound
from shared.storage.objects import ObjectStore

logger = logging.getLogger(__name__)

REPLICAS_PREFIX: Final = "registry/replicas/"
HEARTBEAT_S: Final = 2.0


class Replica(BaseModel):
    """What an embedder says of itself.

    Attributes:
        instance: Its name, which no other has.
        beat: Another one in each heartbeat, so that whoever reads two of them needs no clock.
        model_version: What it serves; empty before it has loaded anything.
        generation: The serving decision that it follows by that; 0 when it serves something
            else than was decided last.
        swap_error: Why it cannot load what was decided; empty when it can.
        shadow_version: The candidate that it tries on live comparisons; empty when none.
        shadow_pairs: Comparisons that the candidate and the serving version both judged.
        shadow_agreement: Share of them with the same decision, 0..1; 0 before the first.
        shadow_similarity_shift: Mean of the candidate's similarity less the serving version's.
        shadow_error: Why the candidate cannot be loaded, or could not compute the last time it
            failed; empty otherwise.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    instance: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$")
    beat: int = Field(ge=0)
    model_version: str
    generation: int = Field(ge=0)
    swap_error: str
    shadow_version: str = ""
    shadow_pairs: int = Field(default=0, ge=0)
    shadow_agreement: float = Field(default=0.0, ge=0, le=1)
    shadow_similarity_shift: float = Field(default=0.0, allow_inf_nan=False)
    shadow_error: str = ""


def write_replica(objects: ObjectStore, replica: Replica) -> None:
    """Write an embedder's heartbeat.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    # Without a candidate, a trainer that knows of none yet can read it too.
    written = replica.model_dump_json(exclude_defaults=True)
    objects.put(_key(replica.instance), written.encode())


def read_replicas(objects: ObjectStore) -> list[Replica]:
    """Read the latest heartbeat of each embedder, also of those that are gone by now.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    found = []
    for stored in objects.list(REPLICAS_PREFIX):
        try:
            found.append(Replica.model_validate_json(objects.get(stored.key)))
        except NotFound:
            continue  # removed since it was listed
        except ValidationError as error:
            logger.warning("object %s is no heartbeat: %s", stored.key, error)
    return found


def remove_replica(objects: ObjectStore, instance: str) -> None:
    """Forget an embedder.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    objects.remove(_key(instance))


def _key(instance: str) -> str:
    return f"{REPLICAS_PREFIX}{instance}.json"
