"""Shadow evaluation: publication of the candidate, and the sum of what the embedders found."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer.registry.idempotency import CALL_RESULTS
from services.trainer.registry.versions import read_serving, read_version
from shared.errors import PreconditionFailed
from shared.registry.heartbeats import Replica
from shared.registry.shadow_pointer import ShadowPointer, clear_shadow, write_shadow
from shared.storage.idempotency import IdempotencyKey
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowSummary:
    """Agreement of a candidate with the serving version on live comparisons.

    Attributes:
        model_version: The candidate.
        pairs: Comparisons that both versions decided.
        agreement: Share of them with the same decision, 0..1; 0 if there are none.
        similarity_shift: Mean of the candidate's cosine similarity minus the serving version's.
        error: The last error; of several embedders, with their names. Empty if there is none.
    """

    model_version: str
    pairs: int
    agreement: float
    similarity_shift: float
    error: str


class ShadowPublisher:
    """Publishes the version that the embedders evaluate in the shadow.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where the shadow pointer is.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def publish(
        self, model_version: str, *, requested_by: str, key: str | None = None
    ) -> None:
        """Name the version to evaluate, in place of any other.

        Args:
            model_version: The version; empty for none.
            requested_by: Who asks.
            key: Idempotency key. If it was used before, nothing is done.

        Raises:
            NotFound: If there is no such version.
            PreconditionFailed: If the version serves.
            AlreadyExists: If the key was used for another request.
            Unavailable: If Postgres or the object store cannot be reached.
        """
        idempotency_key = IdempotencyKey.of(
            requested_by, key, "shadow", model_version=model_version
        )
        async with transaction(self._pool) as connection:
            if await CALL_RESULTS.claim(connection, idempotency_key):
                return
            if model_version:
                await read_version(connection, model_version)
                serving = await read_serving(connection)
                if serving and serving.model_version == model_version:
                    raise PreconditionFailed(
                        f"{model_version} serves; name a version to try beside it"
                    )
            result = {"model_version": model_version}
            await CALL_RESULTS.save(connection, idempotency_key, result)
            # The last step before the commit. If the commit fails, a repeated call writes the
            # pointer again, which has no effect unless another call came in between.
            await asyncio.to_thread(self._write, model_version)
        logger.info("%s set the shadow candidate to %s", requested_by, model_version or "none")

    def _write(self, model_version: str) -> None:
        if model_version:
            write_shadow(self._objects, ShadowPointer(model_version=model_version))
        else:
            clear_shadow(self._objects)


def replica_shadow(replica: Replica) -> ShadowSummary | None:
    """Return what one embedder found; None if it evaluates no candidate."""
    if not replica.shadow_version:
        return None
    return ShadowSummary(
        model_version=replica.shadow_version,
        pairs=replica.shadow_pairs,
        agreement=replica.shadow_agreement,
        similarity_shift=replica.shadow_similarity_shift,
        error=replica.shadow_error,
    )


def summarize_shadow(
    candidate: str, serving_version: str, replicas: Sequence[Replica]
) -> ShadowSummary:
    """Sum what all embedders found; each comparison counts the same.

    Args:
        candidate: Embedders that evaluate another version do not count.
        serving_version: Embedders that serve another version do not count.
        replicas: The embedders.
    """
    evaluating = [replica for replica in replicas if replica.shadow_version == candidate]
    counted = [replica for replica in evaluating if replica.model_version == serving_version]
    pairs = sum(replica.shadow_pairs for replica in counted)
    agreed = sum(replica.shadow_pairs * replica.shadow_agreement for replica in counted)
    shift = sum(replica.shadow_pairs * replica.shadow_similarity_shift for replica in counted)
    errors = [f"{each.instance}: {each.shadow_error}" for each in evaluating if each.shadow_error]
    return ShadowSummary(
        model_version=candidate,
        pairs=pairs,
        agreement=agreed / pairs if pairs else 0.0,
        similarity_shift=shift / pairs if pairs else 0.0,
        error="; ".join(errors),
    )
