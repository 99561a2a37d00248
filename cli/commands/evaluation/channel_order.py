"""Detection of a checkpoint's channel order by measuring both."""

from pathlib import Path
from typing import Any, Final

from cli.commands.evaluation.model_source import load_local_network
from cli.commands.evaluation.pair_crops import pair_crops
from cli.images import AlignmentChoice, report_left_out
from cli.output import counting_progress
from shared.datasets.pair_files import read_pair_file
from shared.evaluation.calibration import best_accuracy_threshold, far_threshold
from shared.evaluation.embed import embed_usable
from shared.evaluation.measure import score
from shared.evaluation.metrics import roc
from shared.evaluation.scores import Scores
from shared.model.manifest import ChannelOrder
from shared.model.sessions.torch import TorchSession

# The official order comes first, so that a tie selects it.
_ORDERS: Final[tuple[ChannelOrder, ...]] = ("bgr", "rgb")


def probe_channel_order(
    checkpoint: Path,
    pair_file: Path,
    target_far: float | None = None,
    eps: float | None = None,
) -> dict[str, Any]:
    """Measures a checkpoint in both channel orders on labelled pairs of aligned faces.

    Args:
        checkpoint: The file.
        pair_file: The pairs.
        target_far: FAR of the threshold; None for the threshold with the best accuracy.
        eps: Epsilon of the BatchNorms; None to tell by the file.

    Returns:
        The better ``channel_order`` with its ``threshold``, the ``best_accuracy`` by order, and
        the number of ``pairs`` measured; images that cannot be used are named on stderr.

    Raises:
        InvalidInput: The checkpoint or the pairs cannot be used, or there are too few impostor
            pairs for the FAR.
    """
    pair_set = read_pair_file(pair_file)
    network = load_local_network(checkpoint, eps)
    scores: dict[ChannelOrder, Scores] = {}
    with counting_progress() as progress:
        task = progress.add_task("probing", total=len(_ORDERS) * len(pair_set.images))
        for order in _ORDERS:
            session = TorchSession(network, order)
            usable = embed_usable(
                session,
                pair_set,
                pair_crops(pair_set, AlignmentChoice.AUTO),
                progress=lambda count: progress.advance(task, count),
            )
            # The second order is measured on what the first could use.
            report_left_out(usable.unusable)
            pair_set = usable.pair_set
            scores[order] = score(usable.embedded, pair_set)
    accuracies = {order: roc(scores[order]).best()[1] for order in _ORDERS}
    better = max(_ORDERS, key=accuracies.__getitem__)
    if target_far is None:
        threshold = best_accuracy_threshold(scores[better])
    else:
        threshold = far_threshold(scores[better], target_far)
    return {
        "channel_order": better,
        "threshold": threshold,
        "best_accuracy": accuracies,
        "pairs": len(pair_set),
    }
