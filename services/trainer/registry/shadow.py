"""Which candidate the embedders try on live requests, and what they found of it together."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from shared.registry.heartbeats import Replica
from shared.registry.shadow_pointer import ShadowPointer, clear_shadow, write_shadow
from shared.storage.objects import ObjectStore

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
        objects: Where the registry is.
    """

    def __init__(self, objects: ObjectStore) -> None:
        self._objects = objects

    async def publish(self, model_version: str, *, who: str) -> None:
        """Let them try this version from now on, or none when it is empty.

        Raises:
            Unavailable: If the store cannot be reached.
        """
        if model_version:
            pointer = ShadowPointer(model_version=model_version)
            await asyncio.to_thread(write_shadow, self._objects, pointer)
        else:
            await asyncio.to_thread(clear_shadow, self._objects)
        logger.info("%s lets the embedders try %s", who, model_version or "no version")


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
