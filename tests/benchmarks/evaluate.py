"""Speed of an evaluation, decoding included, against the bare engine.

Measurement with onnxruntime, the faster engine on a CPU, where decoding has the larger share.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from numpy.typing import NDArray

from cli.commands.evaluation.pair_crops import pair_crops
from cli.images import AlignmentChoice
from cli.rendering.renderer import write_people
from shared.datasets.folder import read_identities
from shared.datasets.pairs import PairSet
from shared.datasets.sampling import SampleSize, sample_pairs
from shared.evaluation.embed import CropReader, embed_set
from shared.model.sessions.base import Session
from shared.model.sessions.cpu import cpu_threads
from shared.model.sessions.factory import open_session
from tests.benchmarks.progress import log
from tests.default_version import export_default

_PEOPLE, _IMAGES, _BATCH = 192, 4, 32
_ROUNDS = 11


def run(_: Path) -> dict[str, object]:
    """Measure both; `ratio` is the speed of the evaluation over that of the bare engine."""
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(export_default(Path(folder) / "default"))
        write_people(Path(folder) / "people", _PEOPLE, _IMAGES, seed=0)
        people = read_identities(Path(folder) / "people").images
        # As many as there are genuine pairs, so that every image is used.
        pairs = _PEOPLE * _IMAGES * (_IMAGES - 1)
        pair_set = sample_pairs(people, SampleSize(pairs), seed=0)
        figures = _compare(session, pair_set, pair_crops(pair_set, AlignmentChoice.AUTO))
    return {
        **figures,
        "bar": 0.95,
        "engine": session.engine,
        "threads": cpu_threads(),
        "images": len(pair_set.images),
        "batch_size": _BATCH,
        "rounds": _ROUNDS,
    }


def _compare(session: Session, pair_set: PairSet, crops: CropReader) -> dict[str, float]:
    """Time both alternately, so that other load on the machine affects both."""
    decoded = np.stack([crops(image) for image in range(len(pair_set.images))])
    alternatives: dict[str, Callable[[], object]] = {
        "bare": lambda: _bare(session, decoded),
        "evaluation": lambda: embed_set(session, pair_set, crops, batch_size=_BATCH),
    }
    alternatives["bare"]()
    speeds: dict[str, list[float]] = {name: [] for name in alternatives}
    for turn in range(_ROUNDS):
        for name in sorted(alternatives, reverse=bool(turn % 2)):
            start = time.perf_counter()
            alternatives[name]()
            speeds[name].append(len(decoded) / (time.perf_counter() - start))
        log(f"{session.engine}: round {turn + 1} of {_ROUNDS}")
    rounds = zip(speeds["evaluation"], speeds["bare"], strict=True)
    return {
        "bare_images_per_second": median(speeds["bare"]),
        "evaluation_images_per_second": median(speeds["evaluation"]),
        "ratio": median(evaluation / bare for evaluation, bare in rounds),
    }


def _bare(session: Session, decoded: NDArray[np.uint8]) -> None:
    for start in range(0, len(decoded), _BATCH):
        session.run(decoded[start : start + _BATCH])
