"""How much of the engine's speed an evaluation gets, decoding included.

With onnxruntime, the faster engine on a CPU: the slower one hides decoding better.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from cli.commands.evaluation.pair_crops import pair_crops
from cli.demo.rendering.renderer import write_people
from cli.images import Alignment
from shared.datasets.folder import read_identities
from shared.datasets.pairs import PairSet
from shared.datasets.sampling import SampleSize, sample_pairs
from shared.evaluation.embed import CropReader, embed_set
from shared.model.sessions.base import Session
from shared.model.sessions.cpu import cpu_threads
from shared.model.sessions.factory import open_session
from tests.default_version import export_default

_PEOPLE, _IMAGES, _BATCH = 192, 4, 32
_ROUNDS = 11


def run(_: Path) -> dict[str, object]:
    """Measure; `ratio` is an evaluation's speed over that of the bare engine."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export_default(Path(folder) / "default"))
        write_people(Path(folder) / "people", _PEOPLE, _IMAGES, seed=0)
        people = read_identities(Path(folder) / "people")
        # All genuine pairs, so that every image is used.
        pairs = _PEOPLE * _IMAGES * (_IMAGES - 1)
        pair_set = sample_pairs(people, SampleSize(pairs), seed=0)
        measured = _compare(session, pair_set, pair_crops(pair_set, Alignment.AUTO))
    return {
        **measured,
        "bar": 0.95,
        "engine": session.engine,
        "threads": cpu_threads(),
        "images": len(pair_set.images),
        "batch_size": _BATCH,
        "rounds": _ROUNDS,
    }


def _compare(session: Session, pair_set: PairSet, crops: CropReader) -> dict[str, float]:
    """Time both in turn, so that what else the machine does hits both alike."""
    decoded = np.stack([crops(image) for image in range(len(pair_set.images))])
    ways: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare(session, decoded),
        "evaluation": lambda: embed_set(session, pair_set, crops, batch_size=_BATCH),
    }
    ways["bare"]()
    speeds: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(_ROUNDS):
        for way in sorted(ways, reverse=bool(turn % 2)):
            start = time.perf_counter()
            ways[way]()
            speeds[way].append(len(decoded) / (time.perf_counter() - start))
        sys.stderr.write(f"{session.engine}: round {turn + 1} of {_ROUNDS}\n")
    rounds = zip(speeds["evaluation"], speeds["bare"], strict=True)
    return {
        "bare_images_per_second": median(speeds["bare"]),
        "evaluation_images_per_second": median(speeds["evaluation"]),
        "ratio": median(evaluation / bare for evaluation, bare in rounds),
    }


def _bare(session: Session, decoded: NDArray[np.uint8]) -> None:
    for start in range(0, len(decoded), _BATCH):
        session.run(decoded[start : start + _BATCH])
