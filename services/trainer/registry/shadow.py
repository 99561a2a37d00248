"""Which candidate the embedders try on live requests, and what they found of it together."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from services.trainer.registry.kept_results import KEPT_RESULTS
from services.trainer.registry.versions import read_serving, read_version
from shared.errors import PreconditionFailed
from shared.registry.heartbeats import Replica
from shared.registry.shadow_pointer import ShadowPointer, clear_shadow, write_shadow
from shared.storage.idempotency import IdempotencyKey
from shared.storage.objects import ObjectStore
from shared.storage.postgres import Pool, transaction

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ShadowReport:
    """How a candidate did on live comparisons, against the version that serves.

    Attributes:
        model_version: The candidate.
        pairs: Comparisons that both versions judged.
        agreement: Share of them with the same decision, 0..1; 0 before the first.
        similarity_shift: Mean of the candidate's cosine similarity less the serving version's.
        error: What went wrong last, and with several embedders at which; empty otherwise.
    """

    model_version: str
    pairs: int
    agreement: float
    similarity_shift: float
    error: str


class ShadowPublisher:
    """Tells the embedders which candidate to try.

    Args:
        pool: Connections to a database with the schema `trainer`.
        objects: Where the registry is.
    """

    def __init__(self, pool: Pool, objects: ObjectStore) -> None:
        self._pool = pool
        self._objects = objects

    async def publish(self, model_version: str, *, who: str, key: str | None = None) -> None:
        """Let them try this version from now on, or none when it is empty.

        Args:
            model_version: The version.
            who: Who asks.
            key: Idempotency key; when it was used before, nothing is done.

        Raises:
            NotFound: If there is no such version.
            PreconditionFailed: If it is the one that serves.
            AlreadyExists: If the key was used for something else.
            Unavailable: If a store cannot be reached.
        """
        once = IdempotencyKey.of(who, key, "shadow", model_version=model_version)
        async with transaction(self._pool) as connection:
            if await KEPT_RESULTS.claim(connection, once):
                return
            if model_version:
                await read_version(connection, model_version)
                serving = await read_serving(connection)
                if serving and serving.model_version == model_version:
                    raise PreconditionFailed(
                        f"{model_version} serves; name a version to try beside it"
                    )
            await KEPT_RESULTS.save(connection, once, {"model_version": model_version})
            # The last step before the commit: a call that fails there is carried out again
            # when it is repeated, which changes nothing unless another came in between.
            await asyncio.to_thread(self._publish, model_version)
        logger.info("%s lets the embedders try %s", who, model_version or "no version")

    def _publish(self, model_version: str) -> None:
        if model_version:
            write_shadow(self._objects, ShadowPointer(model_version=model_version))
        else:
            clear_shadow(self._objects)


def report_of(replica: Replica) -> ShadowReport | None:
    """Give what one embedder found; None when it tries none."""
    if not replica.shadow_version:
        return None
    return ShadowReport(
        model_version=replica.shadow_version,
        pairs=replica.shadow_pairs,
        agreement=replica.shadow_agreement,
        similarity_shift=replica.shadow_similarity_shift,
        error=replica.shadow_error,
    )


def sum_reports(candidate: str, serving_version: str, replicas: Sequence[Replica]) -> ShadowReport:
    """Give what all embedders found together, each comparison counting the same.

    Args:
        candidate: Of this version only.
        serving_version: Only comparisons against this version count.
        replicas: The embedders.
    """
    trying = [replica for replica in replicas if replica.shadow_version == candidate]
    counted = [replica for replica in trying if replica.model_version == serving_version]
    pairs = sum(replica.shadow_pairs for replica in counted)
    agreed = sum(replica.shadow_pairs * replica.shadow_agreement for replica in counted)
    shift = sum(replica.shadow_pairs * replica.shadow_similarity_shift for replica in counted)
    failed = [f"{each.instance}: {each.shadow_error}" for each in trying if each.shadow_error]
    return ShadowReport(
        model_version=candidate,
        pairs=pairs,
        agreement=agreed / pairs if pairs else 0.0,
        similarity_shift=shift / pairs if pairs else 0.0,
        error="; ".join(failed),
    )
