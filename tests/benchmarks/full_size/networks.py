"""Networks of the official sizes with made-up weights, as checkpoints and as model versions."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from shared.model.default.crops import default_golden_crops
from shared.model.export import export_version
from shared.model.network.checkpoint import load_checkpoint
from tests.shared.model.conftest import save_checkpoint
from tests.shared.model.made_weights import LAYOUTS, made_state, official_shapes

PREFIX = "features.module."
_EMBEDDING_SIZE = 512


@dataclass(frozen=True)
class Network:
    """Depth and widths of a network.

    Attributes:
        name: Key of `LAYOUTS`.
        widths: Channels of the four stages.
    """

    name: str
    widths: tuple[int, ...] = (64, 128, 256, 512)


OFFICIAL = (Network("iresnet50"), Network("iresnet100"))
# As deep as the smallest official network, and so narrow that a test can train it.
NARROW = Network("iresnet18", (4, 8, 16, 32))


def write_checkpoint(network: Network, file: Path) -> Path:
    """Write made-up weights with the keys of the released files.

    Returns:
        The file.
    """
    shapes = official_shapes(LAYOUTS[network.name], network.widths, _EMBEDDING_SIZE)
    return save_checkpoint(file, made_state(shapes), PREFIX)


def export_network(network: Network, folder: Path) -> Mapping[str, float]:
    """Make a model version from a checkpoint, as an import does; keep it in the folder.

    Args:
        network: The network.
        folder: Is made; its parent folder gets the checkpoint for the time of the export.

    Returns:
        Sizes in bytes and durations in seconds.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    file = write_checkpoint(network, folder.with_suffix(".pth"))
    start = time.perf_counter()
    checkpoint = load_checkpoint(file)
    loaded = time.perf_counter()
    export_version(
        checkpoint.network,
        folder,
        model_version=folder.name,
        channel_order="bgr",
        threshold=0.3,
        magnitude_quantiles=(0.1, 1000.0),
        golden_crops=default_golden_crops(),
        job_id="full-size",
    )
    exported = time.perf_counter()
    sizes = {
        "checkpoint_bytes": file.stat().st_size,
        "version_bytes": sum(each.stat().st_size for each in folder.iterdir()),
    }
    file.unlink()
    return sizes | {"load_s": loaded - start, "export_s": exported - loaded}
