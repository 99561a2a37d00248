"""Heartbeats of the embedder replicas, with what each of them serves.

Each replica writes one small object every two seconds. The alternative is that the trainer calls
every address behind the embedder's name. Behind a load balancer that reaches one replica only, and
it needs a network path from the trainer to each embedder. All of them reach the object store.
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
    """Heartbeat of one embedder replica.

    Attributes:
        instance: Unique name of the replica.
        beat: Differs in each heartbeat, so that a reader of two heartbeats needs no clock.
        model_version: The version it serves; empty before it has loaded one.
        generation: Generation of the serving pointer that it follows; 0 when it serves another
            version than the pointer says.
        swap_error: Why it cannot load the version of the pointer; empty when it can.
        shadow_version: The candidate that it evaluates on live comparisons; empty for none.
        shadow_pairs: Comparisons that both the candidate and the serving version computed.
        shadow_agreement: Share of them with the same decision, 0..1; 0 before the first.
        shadow_similarity_shift: Mean of the candidate's similarity less the serving version's.
        shadow_error: The last error of loading or running the candidate; empty for none.
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
    """Write the heartbeat of a replica.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    # Without defaults, a trainer of a version without the shadow fields can read it too.
    written = replica.model_dump_json(exclude_defaults=True)
    objects.put(_key(replica.instance), written.encode())


def read_replicas(objects: ObjectStore) -> list[Replica]:
    """Read the latest heartbeat of each replica, including those that have stopped.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    found = []
    for stored in objects.list(REPLICAS_PREFIX):
        try:
            found.append(Replica.model_validate_json(objects.get(stored.key)))
        except NotFound:
            continue  # removed after it was listed
        except ValidationError as error:
            logger.warning("object %s is not a heartbeat and is ignored: %s", stored.key, error)
    return found


def remove_replica(objects: ObjectStore, instance: str) -> None:
    """Remove the heartbeat of a replica.

    Raises:
        Unavailable: If the store cannot be reached.
    """
    objects.remove(_key(instance))


def _key(instance: str) -> str:
    return f"{REPLICAS_PREFIX}{instance}.json"
