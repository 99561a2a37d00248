"""Finds out by measuring in which channel order a checkpoint wants its input."""

from pathlib import Path
from typing import Any, Final

from cli.output import counting_progress
from cli.pair_crops import pair_crops
from cli.pictures import Alignment
from shared.datasets.pair_files import read_pair_file
from shared.evaluation.embed_set import embed_set
from shared.evaluation.metrics import roc
from shared.evaluation.scores import Scores, pair_similarity
from shared.model.checkpoint import load_checkpoint
from shared.model.manifest import ChannelOrder
from shared.model.torch_session import TorchSession

# The official order first: it wins when there is nothing to choose.
_ORDERS: Final[tuple[ChannelOrder, ...]] = ("bgr", "rgb")


def probe_channel_order(checkpoint: Path, pair_file: Path) -> dict[str, Any]:
    """Measures a checkpoint in both channel orders on labelled pairs of aligned faces.

    Returns:
        The better ``channel_order`` and the ``threshold`` that goes with it; the
        ``best_accuracy`` by order, and the number of ``pairs``.

    Raises:
        InvalidInput: The checkpoint, the pairs or a picture cannot be used.
    """
    pair_set = read_pair_file(pair_file)
    network = load_checkpoint(checkpoint).network
    crops = pair_crops(pair_set, Alignment.AUTO)
    best: dict[str, tuple[float, float]] = {}
    with counting_progress() as progress:
        task = progress.add_task("probing", total=len(_ORDERS) * len(pair_set.images))
        for order in _ORDERS:
            session = TorchSession(network, order)
            embedded = embed_set(
                session, pair_set, crops, progress=lambda count: progress.advance(task, count)
            )
            similarity = pair_similarity(embedded.embeddings, pair_set.pairs)
            best[order] = roc(Scores(similarity, pair_set.labels)).best()
    better = max(_ORDERS, key=lambda order: best[order][1])
    return {
        "channel_order": better,
        "threshold": best[better][0],
        "best_accuracy": {order: accuracy for order, (_, accuracy) in best.items()},
        "pairs": len(pair_set),
    }
