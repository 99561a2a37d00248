"""Pages of evaluations whose images are named by hashes, as those of the trainer."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cli.rendering.renderer import render_person
from shared.datasets.pairs import PairSet
from shared.evaluation.embed import EmbeddedSet
from shared.evaluation.measure import measure
from shared.evaluation.report.page import write_report


def write_page(path: Path, hashes: Sequence[str]) -> Path:
    """Write a page that compares two models; the pairs of neighbouring images are new errors.

    Returns:
        The path.
    """
    count = len(hashes)
    pair_set = PairSet(
        images=tuple(map(Path, hashes)),
        pairs=np.array([[image, image + 1] for image in range(count - 1)], np.int32),
        labels=np.full(count - 1, True),
    )
    magnitudes = np.full(count, 20, np.float32)
    alike = EmbeddedSet(np.full((count, count), count**-0.5, np.float32), magnitudes, None, 1)
    apart = EmbeddedSet(np.eye(count, dtype=np.float32), magnitudes, None, 1)
    old, new = (measure(name, one, pair_set, 0.4) for name, one in (("v1", alike), ("v2", apart)))
    write_report(path, pair_set, new, lambda image: render_person(image, 0), old)
    return path
