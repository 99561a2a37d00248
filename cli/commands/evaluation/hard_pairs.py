"""Hard pairs: pairs that a model scores wrongly."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cli.commands.evaluation.model_source import load_local_network
from cli.commands.evaluation.pair_crops import pair_crops
from cli.images import AlignmentChoice, report_left_out
from cli.output import counting_progress
from shared.datasets.pairs import PairSet
from shared.datasets.sampling import HardPairs
from shared.errors import InvalidInput
from shared.evaluation.embed import embed_set
from shared.evaluation.scores import pair_similarity
from shared.model.default import DEFAULT_CHECKPOINT
from shared.model.manifest import ChannelOrder
from shared.model.sessions.base import Session
from shared.model.sessions.torch import TorchSession


def hard_pairs(share: float, checkpoint: Path | None, channel_order: ChannelOrder) -> HardPairs:
    """Makes the request for a share of pairs that are hard for a checkpoint.

    Args:
        share: Share of the pairs, 0 to 1.
        checkpoint: The checkpoint file; None for the bundled one.
        channel_order: Its channel order.

    Raises:
        InvalidInput: The checkpoint is incomplete.
    """
    network = load_local_network(checkpoint or DEFAULT_CHECKPOINT)
    session = TorchSession(network, channel_order)
    return HardPairs(lambda images, pairs: _similarity(session, images, pairs), share)


def _similarity(
    session: Session, images: Sequence[Path], pairs: NDArray[np.int32]
) -> NDArray[np.float32]:
    unusable: dict[int, InvalidInput] = {}
    candidates = PairSet(tuple(images), pairs, np.zeros(len(pairs), np.bool_))
    with counting_progress() as progress:
        task = progress.add_task("looking for hard pairs", total=len(images))
        embedded = embed_set(
            session,
            candidates,
            pair_crops(candidates, AlignmentChoice.AUTO),
            progress=lambda count: progress.advance(task, count),
            unusable=unusable,
        )
    report_left_out([unusable[image] for image in sorted(unusable)])
    return pair_similarity(embedded.embeddings, pairs).astype(np.float32)
